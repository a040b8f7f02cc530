# Runs on a Windows source, from memory: sent over the SSH channel, never written to its disk (but for what
# Add-Type compiles in the folder for temporary files, and removes again).
#
# PowerShell 5.1 or newer. `$Role` says what it does: `inventory`, `guard`, `snapshots` or `reader`. It starts
# with the first words of every such script (magic, size !I, JSON). Then the reader answers the frames of
# `remote_reader.py`; guard and snapshots answer lines of JSON with a size (!I) and JSON.
#
# Standard output carries nothing else: it is written as bytes, past PowerShell, which would recode it.

param([string]$Role)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'

# The table of p2v/transports/frames.py; a test compares the two.
$Frames = @{
    OpOpen = 1
    OpRead = 2
    OpHash = 3
    OpSync = 5
    OpQuit = 6
    OpCompose = 7
    StatusOk = 0
    StatusError = 1
    StatusReadError = 2
    CodecNone = 0
    CodecZlib = 1
    CodecZero = 2
    MaxLength = 16777216
    MaxCount = 65536
    RequestSize = 23
    PairSize = 8
    ResponseSize = 46
}
$Magic = [byte[]](0, 80, 50, 86, 49, 0)

# C# 5, which is what Windows PowerShell compiles. Request !BIHQII, pairs !II, response !BIBII32s.
$Source = @'
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.IO.Compression;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Threading;
using Microsoft.Win32.SafeHandles;

namespace P2V
{
    public static class Table
    {
        /*TABLE*/
    }

    /// What Windows says of devices. Control codes: winioctl.h; error numbers: winerror.h.
    public static class Native
    {
        const uint GenericRead = 0x80000000, GenericWrite = 0x40000000, ShareReadWrite = 3, OpenExisting = 3;
        const uint LengthInfo = 0x0007405C, AllowExtendedDasdIo = 0x00090083, NtfsVolumeData = 0x00090064;
        const uint VolumeBitmap = 0x0009006F, VolumeDiskExtents = 0x00560000;
        const int MoreData = 234, BitmapPiece = 1 << 20;

        [DllImport("kernel32.dll", CharSet = CharSet.Unicode, SetLastError = true, ExactSpelling = true)]
        static extern SafeFileHandle CreateFileW(
            string name, uint access, uint share, IntPtr security, uint disposition, uint flags, IntPtr template);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool ReadFile(
            SafeFileHandle file, [Out] byte[] buffer, int size, out int done, IntPtr overlapped);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetFilePointerEx(SafeFileHandle file, long distance, out long position, uint method);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool FlushFileBuffers(SafeFileHandle file);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool DeviceIoControl(
            SafeFileHandle file, uint code, byte[] input, int inputSize, [Out] byte[] output, int outputSize,
            out int done, IntPtr overlapped);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool GetFirmwareType(out int kind);

        public static SafeFileHandle Open(string path)
        {
            return Open(path, GenericRead);
        }

        static SafeFileHandle Open(string path, uint access)
        {
            SafeFileHandle file = CreateFileW(
                path, access, ShareReadWrite, IntPtr.Zero, OpenExisting, 0, IntPtr.Zero);
            if (file.IsInvalid)
                throw new Win32Exception(Marshal.GetLastWin32Error());
            return file;
        }

        /// Lets the last sectors of a volume be read, behind its filesystem; refused by what is no volume.
        public static void AllowAll(SafeFileHandle file)
        {
            int done;
            DeviceIoControl(file, AllowExtendedDasdIo, null, 0, null, 0, out done, IntPtr.Zero);
        }

        public static int Read(SafeFileHandle file, byte[] buffer, int size, long offset)
        {
            long position;
            int done;
            if (!SetFilePointerEx(file, offset, out position, 0))
                throw new Win32Exception(Marshal.GetLastWin32Error());
            if (!ReadFile(file, buffer, size, out done, IntPtr.Zero))
                throw new Win32Exception(Marshal.GetLastWin32Error());
            return done;
        }

        static byte[] Ask(SafeFileHandle file, uint code, byte[] question, int size)
        {
            byte[] answer = new byte[size];
            int done;
            int asked = question == null ? 0 : question.Length;
            if (!DeviceIoControl(file, code, question, asked, answer, size, out done, IntPtr.Zero))
                throw new Win32Exception(Marshal.GetLastWin32Error());
            Array.Resize(ref answer, done);
            return answer;
        }

        /// Bytes that can be read: of an NTFS volume, its sectors; of anything else, all of the device.
        public static long Size(SafeFileHandle file)
        {
            try
            {
                byte[] told = Ask(file, NtfsVolumeData, null, 512);
                if (told.Length >= 48)
                    return BitConverter.ToInt64(told, 8) * BitConverter.ToUInt32(told, 40);
            }
            catch (Win32Exception)
            {
            }
            return BitConverter.ToInt64(Ask(file, LengthInfo, null, 8), 0);
        }

        public static long SizeOf(string path)
        {
            using (SafeFileHandle file = Open(path))
                return Size(file);
        }

        /// Where a volume stands: disk number, start, length, and again for each piece of it.
        public static long[] Extents(string volume)
        {
            using (SafeFileHandle file = Open(volume, 0))
            {
                byte[] told = Ask(file, VolumeDiskExtents, null, 8 + 24 * 256);
                int count = BitConverter.ToInt32(told, 0);
                long[] found = new long[3 * count];
                for (int index = 0; index < count; index++)
                {
                    found[3 * index] = BitConverter.ToUInt32(told, 8 + 24 * index);
                    found[3 * index + 1] = BitConverter.ToInt64(told, 16 + 24 * index);
                    found[3 * index + 2] = BitConverter.ToInt64(told, 24 + 24 * index);
                }
                return found;
            }
        }

        public static void Flush(string volume)
        {
            using (SafeFileHandle file = Open(volume, GenericRead | GenericWrite))
                FlushFileBuffers(file);
        }

        /// 1 BIOS, 2 UEFI, 0 where this Windows does not say (before 8).
        public static int Firmware()
        {
            int kind = 0;
            try
            {
                return GetFirmwareType(out kind) ? kind : 0;
            }
            catch (EntryPointNotFoundException)
            {
                return 0;
            }
        }

        /// Bytes of a cluster and the number of clusters, both little-endian 64 bits, then one bit for each.
        public static byte[] Bitmap(string path)
        {
            using (SafeFileHandle file = Open(path))
            {
                byte[] told = Ask(file, NtfsVolumeData, null, 512);
                long clusters = BitConverter.ToInt64(told, 16);
                byte[] found = new byte[16 + (clusters + 7) / 8];
                BitConverter.GetBytes((long)BitConverter.ToUInt32(told, 44)).CopyTo(found, 0);
                BitConverter.GetBytes(clusters).CopyTo(found, 8);
                for (long first = 0; first < clusters; first += BitmapPiece * 8L)
                    Piece(file, first, found);
                return found;
            }
        }

        static void Piece(SafeFileHandle file, long first, byte[] found)
        {
            byte[] answer = new byte[16 + BitmapPiece];
            int done;
            byte[] start = BitConverter.GetBytes(first);
            bool whole = DeviceIoControl(
                file, VolumeBitmap, start, 8, answer, answer.Length, out done, IntPtr.Zero);
            if (!whole && Marshal.GetLastWin32Error() != MoreData)
                throw new Win32Exception(Marshal.GetLastWin32Error());
            int wanted = (int)Math.Min(BitmapPiece, found.Length - 16 - first / 8);
            if (BitConverter.ToInt64(answer, 0) != first || done < 16 + wanted)
                throw new IOException("the bitmap of the volume is shorter than the volume");
            Buffer.BlockCopy(answer, 16, found, (int)(16 + first / 8), wanted);
        }
    }

    public abstract class Disk
    {
        public long Size;

        public abstract void Read(byte[] into, int at, long offset, int size);
    }

    /// A device, read in whole sectors: 4096 bytes are whole sectors of every disk.
    public class Device : Disk
    {
        const int Whole = 4096;
        static readonly byte[] Scratch = new byte[4 * 1024 * 1024];
        readonly SafeFileHandle file;

        public Device(string path)
        {
            file = Native.Open(path);
            Native.AllowAll(file);
            Size = Native.Size(file);
        }

        public override void Read(byte[] into, int at, long offset, int size)
        {
            while (size > 0)
            {
                long start = offset - offset % Whole;
                long end = Math.Min(offset + size + Whole - 1, start + Scratch.Length);
                end = Math.Min(end - end % Whole, Size);
                Fill(start, (int)(end - start));
                int part = (int)Math.Min(size, end - offset);
                Buffer.BlockCopy(Scratch, (int)(offset - start), into, at, part);
                offset += part;
                at += part;
                size -= part;
            }
        }

        void Fill(long start, int size)
        {
            int done = Native.Read(file, Scratch, size, start);
            if (done != size)
                throw new ReadFailed("the disk ended early at byte " + (start + done));
        }
    }

    /// The bitmap of a volume, which is read like a disk: "bitmap:" and the name of the device.
    public class BitmapDisk : Disk
    {
        public const string Prefix = "bitmap:";
        readonly byte[] content;

        public BitmapDisk(string path)
        {
            content = Native.Bitmap(path.Substring(Prefix.Length));
            Size = content.Length;
        }

        public override void Read(byte[] into, int at, long offset, int size)
        {
            Buffer.BlockCopy(content, (int)offset, into, at, size);
        }
    }

    /// A disk of which some pieces are read from other devices: volumes from their snapshots.
    public class Composed : Disk
    {
        readonly Disk whole;
        readonly List<object[]> pieces = new List<object[]>();
        readonly Dictionary<string, Disk> others = new Dictionary<string, Disk>();

        public Composed(string path, List<object> wanted)
        {
            whole = new Device(path);
            Size = whole.Size;
            foreach (object one in wanted)
            {
                List<object> words = (List<object>)one;
                string name = (string)words[2];
                if (!others.ContainsKey(name))
                    others[name] = new Device(name);
                pieces.Add(new object[] { (long)words[0], (long)words[1], others[name], (long)words[3] });
            }
            pieces.Sort((left, right) => ((long)left[0]).CompareTo((long)right[0]));
        }

        public override void Read(byte[] into, int at, long offset, int size)
        {
            while (size > 0)
            {
                Disk disk = whole;
                long from = offset, limit = Size;
                foreach (object[] piece in pieces)
                {
                    long start = (long)piece[0], end = start + (long)piece[1];
                    if (offset < start)
                    {
                        limit = start;
                        break;
                    }
                    if (offset < end)
                    {
                        disk = (Disk)piece[2];
                        from = (long)piece[3] + offset - start;
                        limit = end;
                        break;
                    }
                }
                int part = (int)Math.Min(size, limit - offset);
                disk.Read(into, at, from, part);
                offset += part;
                at += part;
                size -= part;
            }
        }
    }

    public class ReadFailed : Exception
    {
        // Data error, sector not found, read fault, timeout, I/O device error, disk operation failed.
        static readonly List<int> Numbers = new List<int> { 23, 27, 30, 121, 1117, 1127 };

        public ReadFailed(string said) : base(said)
        {
        }

        public static bool Is(Exception error)
        {
            Win32Exception native = error as Win32Exception;
            return error is ReadFailed || (native != null && Numbers.Contains(native.NativeErrorCode));
        }
    }

    /// As much of JSON as the local side sends: lists of lists, texts and whole numbers.
    public class Words
    {
        readonly string text;
        int at;

        public Words(string text)
        {
            this.text = text;
        }

        public object Next()
        {
            char first = Skip();
            if (first == '[')
                return Many();
            if (first == '"')
                return Text();
            int start = at;
            while (at < text.Length && (char.IsDigit(text[at]) || text[at] == '-'))
                at++;
            return long.Parse(text.Substring(start, at - start), CultureInfo.InvariantCulture);
        }

        char Skip()
        {
            while (at < text.Length && (text[at] == ' ' || text[at] == ','))
                at++;
            if (at == text.Length)
                throw new FormatException("words that end too early");
            return text[at];
        }

        List<object> Many()
        {
            List<object> found = new List<object>();
            at++;
            while (Skip() != ']')
                found.Add(Next());
            at++;
            return found;
        }

        string Text()
        {
            StringBuilder found = new StringBuilder();
            for (at++; text[at] != '"'; at++)
            {
                if (text[at] != '\\')
                    found.Append(text[at]);
                else
                    found.Append(Escaped());
            }
            at++;
            return found.ToString();
        }

        char Escaped()
        {
            at++;
            switch (text[at])
            {
                case 'u':
                    at += 4;
                    return (char)int.Parse(
                        text.Substring(at - 3, 4), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                case 'n': return '\n';
                case 't': return '\t';
                case 'r': return '\r';
                case 'b': return '\b';
                case 'f': return '\f';
                default: return text[at];
            }
        }
    }

    /// Codec zlib (RFC 1950): two bytes, deflate, and the checksum of what was packed.
    public static class Zlib
    {
        public static byte[] Pack(byte[] data, int size)
        {
            using (MemoryStream packed = new MemoryStream(size / 2 + 64))
            {
                packed.WriteByte(0x78);
                packed.WriteByte(0x01);
                using (DeflateStream deflate = new DeflateStream(packed, CompressionLevel.Fastest, true))
                    deflate.Write(data, 0, size);
                packed.Write(Bytes.Big(Adler(data, size)), 0, 4);
                return packed.ToArray();
            }
        }

        static uint Adler(byte[] data, int size)
        {
            uint low = 1, high = 0;
            for (int start = 0; start < size; start += 5552)
            {
                int end = Math.Min(start + 5552, size);
                for (int index = start; index < end; index++)
                {
                    low += data[index];
                    high += low;
                }
                low %= 65521;
                high %= 65521;
            }
            return (high << 16) | low;
        }
    }

    public static class Bytes
    {
        public static byte[] Big(uint value)
        {
            return new byte[] { (byte)(value >> 24), (byte)(value >> 16), (byte)(value >> 8), (byte)value };
        }

        public static uint Int(byte[] data, int at)
        {
            return ((uint)data[at] << 24) | ((uint)data[at + 1] << 16) | ((uint)data[at + 2] << 8) | data[at + 3];
        }

        public static bool AreZero(byte[] data, int from, int to)
        {
            int at = from;
            for (; at + 8 <= to; at += 8)
                if (BitConverter.ToInt64(data, at) != 0)
                    return false;
            for (; at < to; at++)
                if (data[at] != 0)
                    return false;
            return true;
        }

        /// Whether a quarter of it or more is zero, counted in pieces of 64 KiB.
        public static bool AreSparse(byte[] data, int size)
        {
            int pieces = 0, zero = 0;
            for (int at = 0; at + 65536 <= size; at += 65536, pieces++)
                if (AreZero(data, at, at + 65536))
                    zero++;
            return zero * 4 >= Math.Max(1, pieces);
        }
    }

    /// Compresses where compressing a byte takes less time than the time on the wire that it saves.
    public class Adaptive
    {
        const int TrialEvery = 32, Sample = 131072;
        readonly int workers;
        readonly object guard = new object();
        double wire, cost, ratio = 1;
        int busy, untried = TrialEvery;

        public Adaptive(int workers)
        {
            this.workers = workers;
        }

        public void Wrote(int size, double seconds, bool waited)
        {
            if (size < Sample)
                return;
            busy = waited ? 0 : busy + 1;
            if (busy >= 2)
                wire = Mix(wire, seconds / size);
            else if (waited)
                wire *= 0.99;
        }

        static double Mix(double old, double fresh)
        {
            return old > 0 ? old + (fresh - old) / 4 : fresh;
        }

        /// What is sent for the data: itself where compressing does not pay or does not help.
        public byte[] Pack(byte[] data, int size, out int codec)
        {
            codec = Table.CodecNone;
            if (size < 512 || !(Bytes.AreSparse(data, size) || Pays(data, size)))
                return data;
            byte[] small = Attempt(data, size);
            if (small.Length >= size * 0.9)
                return data;
            codec = Table.CodecZlib;
            return small;
        }

        bool Pays(byte[] data, int size)
        {
            if (wire <= 0)
                return false;
            bool trial;
            lock (guard)
            {
                trial = ++untried > TrialEvery;
                if (trial)
                    untried = 0;
            }
            if (trial)
                Attempt(data, Math.Min(size, Sample));
            return cost / workers < wire * (1 - ratio);
        }

        byte[] Attempt(byte[] data, int size)
        {
            Stopwatch watch = Stopwatch.StartNew();
            byte[] small = Zlib.Pack(data, size);
            lock (guard)
            {
                cost = Mix(cost, watch.Elapsed.TotalSeconds / size);
                ratio = Mix(ratio, Math.Min(1.0, (double)small.Length / size));
            }
            return small;
        }
    }

    /// One answer on its way.
    public class Job
    {
        public uint Tag;
        public int Length, Filled, Codec, PayloadSize, RawSize;
        public int[] Starts, Sizes;
        public int Status = Table.StatusOk;
        public bool Wanted;
        public byte[] Data, Payload, Digest = new byte[32];
        public readonly ManualResetEventSlim Ready = new ManualResetEventSlim(false);

        public void Say(int status, string text)
        {
            byte[] said = Encoding.UTF8.GetBytes(text.Length > 1000 ? text.Substring(0, 1000) : text);
            Status = status;
            Codec = Table.CodecNone;
            Digest = new byte[32];
            Payload = said;
            PayloadSize = RawSize = said.Length;
            Ready.Set();
        }

        public void Fail(Exception error)
        {
            Say(ReadFailed.Is(error) ? Table.StatusReadError : Table.StatusError, error.Message);
        }

        public byte[] Head()
        {
            byte[] head = new byte[Table.ResponseSize];
            head[0] = (byte)Status;
            Bytes.Big(Tag).CopyTo(head, 1);
            head[5] = (byte)Codec;
            Bytes.Big((uint)RawSize).CopyTo(head, 6);
            Bytes.Big((uint)PayloadSize).CopyTo(head, 10);
            Digest.CopyTo(head, 14);
            return head;
        }
    }

    /// requests -> this thread: reads the disk -> workers: digest, compression -> one writer, in order
    public class Server
    {
        static readonly byte[] Zeros = new byte[65536];
        readonly Stream source, sink;
        readonly string[] volumes;
        readonly List<Disk> disks = new List<Disk>();
        readonly Adaptive adaptive;
        readonly BlockingCollection<byte[]> buffers = new BlockingCollection<byte[]>();
        readonly BlockingCollection<Job> work = new BlockingCollection<Job>();
        readonly BlockingCollection<Job> order;

        public Server(Stream source, Stream sink, string[] volumes)
        {
            this.source = source;
            this.sink = sink;
            this.volumes = volumes;
            int workers = Math.Min(4, Environment.ProcessorCount);
            adaptive = new Adaptive(workers);
            order = new BlockingCollection<Job>(4 * (workers + 4));
            for (int index = 0; index < workers + 4; index++)
                buffers.Add(new byte[0]);
            for (int index = 0; index < workers; index++)
                Start(DigestAndPack);
        }

        static Thread Start(ThreadStart call)
        {
            Thread thread = new Thread(call);
            thread.IsBackground = true;
            thread.Start();
            return thread;
        }

        /// Answers until it is told to quit or the line ends.
        public void Serve()
        {
            Thread writer = Start(Write);
            byte[] head;
            while ((head = Take(Table.RequestSize)) != null && head[0] != Table.OpQuit)
            {
                int length = (int)Math.Min(Bytes.Int(head, 15), int.MaxValue);
                int count = (int)Math.Min(Bytes.Int(head, 19), int.MaxValue);
                bool opens = head[0] == Table.OpOpen || head[0] == Table.OpCompose;
                if (length > Table.MaxLength || count > Table.MaxCount)
                    throw new InvalidDataException("request too large");
                byte[] extra = Take(opens ? length : Table.PairSize * count);
                if (extra == null)
                    break;
                order.Add(Answer(head, length, opens ? 0 : count, extra));
            }
            order.CompleteAdding();
            writer.Join();
        }

        /// Exactly so many bytes; null at the end of the line.
        byte[] Take(int size)
        {
            byte[] found = new byte[size];
            for (int at = 0; at < size; )
            {
                int got = source.Read(found, at, size - at);
                if (got <= 0)
                    return null;
                at += got;
            }
            return found;
        }

        Job Answer(byte[] head, int length, int count, byte[] extra)
        {
            Job job = new Job { Tag = Bytes.Int(head, 1), Length = length };
            job.Starts = new int[count];
            job.Sizes = new int[count];
            try
            {
                for (int index = 0; index < count; index++)
                {
                    job.Starts[index] = checked((int)Bytes.Int(extra, 8 * index));
                    job.Sizes[index] = checked((int)Bytes.Int(extra, 8 * index + 4));
                }
                long offset = checked((long)(((ulong)Bytes.Int(head, 7) << 32) | Bytes.Int(head, 11)));
                Dispatch(job, head[0], (head[5] << 8) | head[6], offset, extra);
            }
            catch (Exception error)
            {
                job.Fail(error);
            }
            return job;
        }

        void Dispatch(Job job, int op, int disk, long offset, byte[] extra)
        {
            if (op == Table.OpOpen)
                Add(job, OpenDisk(Encoding.UTF8.GetString(extra)));
            else if (op == Table.OpCompose)
            {
                List<object> words = (List<object>)new Words(Encoding.UTF8.GetString(extra)).Next();
                Add(job, new Composed((string)words[0], (List<object>)words[1]));
            }
            else if (op == Table.OpRead || op == Table.OpHash)
                Read(job, disks[disk], offset, op == Table.OpRead);
            else if (op == Table.OpSync)
            {
                Flush(volumes);
                job.Say(Table.StatusOk, "{}");
            }
            else
                throw new InvalidDataException("unknown request " + op);
        }

        static Disk OpenDisk(string path)
        {
            bool bitmap = path.StartsWith(BitmapDisk.Prefix, StringComparison.Ordinal);
            return bitmap ? (Disk)new BitmapDisk(path) : new Device(path);
        }

        void Add(Job job, Disk disk)
        {
            disks.Add(disk);
            job.Say(Table.StatusOk, "{\"disk\":" + (disks.Count - 1) + ",\"size\":" + disk.Size + "}");
        }

        /// One volume that cannot be flushed is no reason not to read.
        public static void Flush(string[] volumes)
        {
            foreach (string volume in volumes)
            {
                try
                {
                    Native.Flush(volume);
                }
                catch (Win32Exception)
                {
                }
            }
        }

        void Read(Job job, Disk disk, long offset, bool wanted)
        {
            int end = 0, total = 0;
            for (int index = 0; index < job.Starts.Length; index++)
            {
                int start = job.Starts[index], size = job.Sizes[index];
                if (start < end || size < 0 || (long)start + size > job.Length || offset + start + size > disk.Size)
                    throw new InvalidDataException("request outside the block or the disk");
                end = start + size;
                total += size;
            }
            byte[] data = buffers.Take();
            if (data.Length < total)
                data = new byte[total];
            job.Data = data;
            job.Wanted = wanted;
            for (int index = 0; index < job.Starts.Length; index++)
            {
                disk.Read(data, job.Filled, offset + job.Starts[index], job.Sizes[index]);
                job.Filled += job.Sizes[index];
            }
            work.Add(job);
        }

        void DigestAndPack()
        {
            foreach (Job job in work.GetConsumingEnumerable())
            {
                try
                {
                    Finish(job);
                }
                catch (Exception error)
                {
                    job.Fail(error);
                }
            }
        }

        void Finish(Job job)
        {
            bool zero = Bytes.AreZero(job.Data, 0, job.Filled);
            job.Digest = Digest(job, zero);
            job.RawSize = job.Wanted ? job.Filled : 0;
            if (job.Wanted && zero)
                job.Codec = Table.CodecZero;
            else if (job.Wanted)
            {
                job.Payload = adaptive.Pack(job.Data, job.Filled, out job.Codec);
                job.PayloadSize = job.Codec == Table.CodecNone ? job.Filled : job.Payload.Length;
            }
            job.Ready.Set();
        }

        /// The block with zeros around the pairs. Where only approved code may run, SHA256.Create() does not.
        static byte[] Digest(Job job, bool zero)
        {
            SHA256 made = CryptoConfig.CreateFromName("System.Security.Cryptography.SHA256Cng") as SHA256;
            using (SHA256 sha = made ?? SHA256.Create())
            {
                int end = 0, done = 0;
                for (int index = 0; index < job.Starts.Length && !zero; index++)
                {
                    AddZeros(sha, job.Starts[index] - end);
                    sha.TransformBlock(job.Data, done, job.Sizes[index], null, 0);
                    done += job.Sizes[index];
                    end = job.Starts[index] + job.Sizes[index];
                }
                AddZeros(sha, job.Length - end);
                sha.TransformFinalBlock(Zeros, 0, 0);
                return sha.Hash;
            }
        }

        static void AddZeros(SHA256 sha, int size)
        {
            for (; size > 0; size -= Zeros.Length)
                sha.TransformBlock(Zeros, 0, Math.Min(size, Zeros.Length), null, 0);
        }

        void Write()
        {
            try
            {
                foreach (Job job in order.GetConsumingEnumerable())
                    WriteOne(job);
            }
            catch (IOException)
            {
                Environment.Exit(1); // the line is gone, and the main thread may wait for a buffer for ever
            }
        }

        void WriteOne(Job job)
        {
            bool waited = !job.Ready.IsSet;
            job.Ready.Wait();
            Stopwatch watch = Stopwatch.StartNew();
            sink.Write(job.Head(), 0, Table.ResponseSize);
            if (job.PayloadSize > 0)
                sink.Write(job.Payload, 0, job.PayloadSize);
            sink.Flush();
            adaptive.Wrote(job.PayloadSize, watch.Elapsed.TotalSeconds, waited);
            if (job.Data != null)
                buffers.Add(job.Data);
        }
    }
}
'@

# Runs in a process of its own that is no child of the session: WMI starts it, so that it outlives what ends
# the session with all below. It makes the snapshots and removes them when the pipe ends, however that came.
$Keeper = {
    $ErrorActionPreference = 'Stop'
    $made = New-Object System.Collections.ArrayList

    function Find-Shadow($Id) {
        Get-CimInstance -ClassName Win32_ShadowCopy -Filter "ID='$Id'"
    }

    function New-Shadow($Volume) {
        $said = Invoke-CimMethod -ClassName Win32_ShadowCopy -MethodName Create -OperationTimeoutSec 240 -Arguments @{
            Volume = $Volume
            Context = 'ClientAccessible'
        }
        if ($said.ReturnValue -ne 0) {
            return 'failed ' + $said.ReturnValue
        }
        $null = $made.Add($said.ShadowID)
        'made ' + (Find-Shadow $said.ShadowID).DeviceObject
    }

    # Those that Windows has removed before, and those that cannot be removed.
    function Remove-Shadows {
        $gone = @()
        $left = @()
        foreach ($id in @($made)) {
            try {
                $found = Find-Shadow $id
                if ($found) {
                    Remove-CimInstance -InputObject $found
                } else {
                    $gone += $id
                }
            } catch {
                $left += $id
            }
        }
        $made.Clear()
        'removed ' + ($gone -join ',') + ';' + ($left -join ',')
    }

    $pipe = New-Object System.IO.Pipes.NamedPipeClientStream('.', $PipeName, [System.IO.Pipes.PipeDirection]::InOut)
    try {
        $pipe.Connect(60000)
        $reader = New-Object System.IO.StreamReader($pipe)
        $writer = New-Object System.IO.StreamWriter($pipe)
        $writer.AutoFlush = $true
        while ($null -ne ($line = $reader.ReadLine())) {
            $answer = try {
                if ($line -eq 'remove') { Remove-Shadows } else { New-Shadow $line }
            } catch {
                'error ' + ($_.Exception.Message -replace '\s+', ' ')
            }
            $writer.WriteLine($answer)
        }
    } finally {
        $null = Remove-Shadows
    }
}

$In = [Console]::OpenStandardInput()
$Out = [Console]::OpenStandardOutput()

function Send-Answer([byte[]]$Before, $Value) {
    $payload = [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $Value -Compress -Depth 8))
    $size = [BitConverter]::GetBytes([uint32]$payload.Length)
    [Array]::Reverse($size)
    $whole = [byte[]]($Before + $size + $payload)
    $Out.Write($whole, 0, $whole.Length)
    $Out.Flush()
}

# What a Windows does not have is no reason to know nothing of it.
function Get-OrElse($Default, [scriptblock]$Block) {
    try { & $Block } catch { $Default }
}

function Get-Setting([string]$Key, [string]$Name) {
    Get-OrElse $null { (Get-ItemProperty -LiteralPath "HKLM:\$Key" -Name $Name).$Name }
}

function Test-Administrator {
    $me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
}

# The first words; `problem` says why nothing more will come.
function Get-Hello {
    $hello = @{
        administrator = [bool](Test-Administrator)
        powershell = [string]$PSVersionTable.PSVersion
        codecs = @('none', 'zlib', 'zero')
        problem = ''
    }
    $version = $PSVersionTable.PSVersion
    if ($version.Major -lt 5 -or ($version.Major -eq 5 -and $version.Minor -lt 1)) {
        $hello.problem = 'it has PowerShell ' + $hello.powershell + ', and 5.1 is needed'
    } elseif ($hello.administrator) {
        try {
            Add-Source
        } catch {
            $hello.problem = 'Add-Type does not work: ' + $_.Exception.Message
        }
    }
    $hello
}

function Add-Source {
    $table = foreach ($one in $Frames.GetEnumerator()) { "public const int $($one.Key) = $($one.Value);" }
    Add-Type -TypeDefinition $Source.Replace('/*TABLE*/', ($table -join ' '))
}

# A volume whose pieces are not known is on no disk that can be read.
function Get-Extents([string]$Volume) {
    $told = @(Get-OrElse @() { [P2V.Native]::Extents($Volume.TrimEnd('\')) })
    for ($at = 0; $at -lt $told.Count; $at += 3) {
        @{ disk = [long]$told[$at]; start = [long]$told[$at + 1]; length = [long]$told[$at + 2] }
    }
}

function Get-Volumes {
    foreach ($one in @(Get-CimInstance -ClassName Win32_Volume -Filter 'DriveType = 3')) {
        @{
            name = [string]$one.DeviceID
            place = [string]$one.Name
            kind = [string]$one.FileSystem
            size = [long]$one.Capacity
            extents = @(Get-Extents $one.DeviceID)
        }
    }
}

function Get-VolumeNames {
    @(Get-CimInstance -ClassName Win32_Volume -Filter 'DriveType = 3') | ForEach-Object { $_.DeviceID.TrimEnd('\') }
}

# BitLocker: Win32_EncryptableVolume is not there where the feature is not.
function Get-Encrypted {
    $space = 'root\CIMV2\Security\MicrosoftVolumeEncryption'
    foreach ($one in @(Get-OrElse @() { Get-CimInstance -Namespace $space -ClassName Win32_EncryptableVolume })) {
        $status = Get-OrElse $null { Invoke-CimMethod -InputObject $one -MethodName GetConversionStatus }
        @{
            name = [string]$one.DeviceID
            place = [string]$one.DriveLetter
            protection = [int]$one.ProtectionStatus
            conversion = $(if ($status) { [int]$status.ConversionStatus } else { -1 })
        }
    }
}

# Win32_DiskDrive is on every Windows; what the Storage module adds came with 8 and 2012.
function Get-Disks {
    $storage = 'root\Microsoft\Windows\Storage'
    $known = @(Get-OrElse @() { Get-CimInstance -Namespace $storage -ClassName MSFT_Disk })
    $partitions = @(Get-CimInstance -ClassName Win32_DiskPartition)
    foreach ($one in @(Get-CimInstance -ClassName Win32_DiskDrive)) {
        $more = $known | Where-Object { $_.Number -eq $one.Index } | Select-Object -First 1
        $path = "\\.\PhysicalDrive$($one.Index)"
        @{
            number = [int]$one.Index
            # Win32_DiskDrive counts whole cylinders only.
            size = [long](Get-OrElse 0 { [P2V.Native]::SizeOf($path) })
            sector_size = [int]$one.BytesPerSector
            physical_sector_size = [int]$(if ($more) { $more.PhysicalSectorSize } else { 0 })
            model = ([string]$one.Model).Trim()
            serial = ([string]$one.SerialNumber).Trim()
            unique_id = [string]$(if ($more) { $more.UniqueId })
            unique_id_format = [int]$(if ($more) { $more.UniqueIdFormat } else { 0 })
            bus = [int]$(if ($more) { $more.BusType } else { 0 })
            style = [int]$(if ($more) { $more.PartitionStyle } else { 0 })
            offline = [bool]$(if ($more) { $more.IsOffline } else { $false })
            media = [string]$one.MediaType
            pnp = [string]$one.PNPDeviceID
            partitions = @($partitions | Where-Object { $_.DiskIndex -eq $one.Index } | ForEach-Object {
                @{ start = [long]$_.StartingOffset; length = [long]$_.Size; type = [string]$_.Type }
            })
        }
    }
}

function Get-Cards {
    $settings = @(Get-CimInstance -ClassName Win32_NetworkAdapterConfiguration)
    foreach ($one in @(Get-CimInstance -ClassName Win32_NetworkAdapter -Filter 'PhysicalAdapter = TRUE')) {
        $own = $settings | Where-Object { $_.Index -eq $one.Index } | Select-Object -First 1
        @{
            name = [string]$one.NetConnectionID
            description = [string]$one.Name
            guid = [string]$one.GUID
            mac = [string]$one.MACAddress
            driver = [string]$one.ServiceName
            pnp = [string]$one.PNPDeviceID
            dhcp = [bool]$own.DHCPEnabled
            addresses = @($own.IPAddress | Where-Object { $_ })
            masks = @($own.IPSubnet | Where-Object { $_ })
            gateways = @($own.DefaultIPGateway | Where-Object { $_ })
            dns = @($own.DNSServerSearchOrder | Where-Object { $_ })
        }
    }
}

# The classes HDC, SCSIAdapter and Net.
function Get-Controllers {
    $classes = '6a', '7b', '72' | ForEach-Object { "ClassGuid = '{4d36e9$_-e325-11ce-bfc1-08002be10318}'" }
    foreach ($one in @(Get-CimInstance -ClassName Win32_PnPEntity -Filter ($classes -join ' OR '))) {
        @{
            name = [string]$one.Name
            class = [string]$one.ClassGuid
            service = [string]$one.Service
            ids = @($one.HardwareID | Where-Object { $_ })
        }
    }
}

function Get-PendingReboots {
    $current = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion'
    if (Test-Path "$current\Component Based Servicing\RebootPending") { 'an update of its components' }
    if (Test-Path "$current\WindowsUpdate\Auto Update\RebootRequired") { 'Windows Update' }
    $renames = Get-Setting 'SYSTEM\CurrentControlSet\Control\Session Manager' 'PendingFileRenameOperations'
    if ($renames) { 'files that are to be replaced' }
}

# When the first process of the system began: another moment after each start, and never corrected.
function Get-BootId {
    $first = Get-CimInstance -ClassName Win32_Process -Filter "Name = 'smss.exe'" | Sort-Object CreationDate
    [string](@($first)[0].CreationDate.ToUniversalTime().Ticks)
}

function Get-Inventory {
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $computer = Get-CimInstance -ClassName Win32_ComputerSystem
    $product = Get-CimInstance -ClassName Win32_ComputerSystemProduct
    $processor = @(Get-CimInstance -ClassName Win32_Processor)[0]
    $control = 'SYSTEM\CurrentControlSet\Control'
    @{
        hostname = [string]$system.CSName
        caption = ([string]$system.Caption).Trim()
        version = [string]$system.Version
        edition = [string](Get-Setting 'SOFTWARE\Microsoft\Windows NT\CurrentVersion' 'EditionID')
        product_type = [int]$system.ProductType
        processor = [int]$processor.Architecture
        is_64_bit = [bool][Environment]::Is64BitOperatingSystem
        machine_guid = [string](Get-Setting 'SOFTWARE\Microsoft\Cryptography' 'MachineGuid')
        boot_id = [string](Get-OrElse '' { Get-BootId })
        vendor = [string]$computer.Manufacturer
        product = [string]$computer.Model
        uuid = [string]$product.UUID
        firmware = [int](Get-OrElse 0 { [P2V.Native]::Firmware() })
        pe_firmware = [int](Get-Setting $control 'PEFirmwareType')
        cpus = [int]$computer.NumberOfLogicalProcessors
        memory = [long]$computer.TotalPhysicalMemory
        system_drive = [string]$system.SystemDrive
        system_partition = [string](Get-Setting 'SYSTEM\Setup' 'SystemPartition')
        hiberboot = (Get-Setting "$control\Session Manager\Power" 'HiberbootEnabled') -eq 1
        hibernate = (Get-Setting "$control\Power" 'HibernateEnabled') -eq 1
        pending_reboots = @(Get-PendingReboots)
        disks = @(Get-Disks)
        volumes = @(Get-Volumes)
        encrypted = @(Get-Encrypted)
        nics = @(Get-Cards)
        controllers = @(Get-OrElse @() { Get-Controllers })
    }
}

# Lines of JSON from the local side, each answered by a block that gets the question.
function Invoke-Questions([hashtable]$Known) {
    $reader = New-Object IO.StreamReader($In, (New-Object Text.UTF8Encoding($false)))
    while ($null -ne ($line = $reader.ReadLine())) {
        $answer = try {
            $question = ConvertFrom-Json -InputObject $line
            & $Known[[string]$question.do] $question
        } catch {
            @{ error = [string]$_.Exception.Message }
        }
        Send-Answer @() $answer
    }
}

function Start-Keeper {
    $name = 'p2v-' + [guid]::NewGuid().ToString('N')
    $script:Pipe = New-Object IO.Pipes.NamedPipeServerStream(
        $name, [IO.Pipes.PipeDirection]::InOut, 1, [IO.Pipes.PipeTransmissionMode]::Byte,
        [IO.Pipes.PipeOptions]::Asynchronous
    )
    $text = "`$PipeName = '$name'`n" + $Keeper.ToString()
    $encoded = [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($text))
    $program = [Diagnostics.Process]::GetCurrentProcess().MainModule.FileName
    $line = "`"$program`" -NoProfile -NonInteractive -InputFormat None -ExecutionPolicy Bypass -EncodedCommand $encoded"
    $said = Invoke-CimMethod -ClassName Win32_Process -MethodName Create -Arguments @{ CommandLine = $line }
    if ($said.ReturnValue -ne 0) {
        throw "WMI does not start a process that removes the snapshots ($($said.ReturnValue))"
    }
    $waiting = $script:Pipe.BeginWaitForConnection($null, $null)
    if (-not $waiting.AsyncWaitHandle.WaitOne(60000)) {
        throw 'the process that removes the snapshots did not start within 60 s'
    }
    $script:Pipe.EndWaitForConnection($waiting)
    $script:FromKeeper = New-Object IO.StreamReader($script:Pipe)
    $script:ToKeeper = New-Object IO.StreamWriter($script:Pipe)
    $script:ToKeeper.AutoFlush = $true
}

function Get-KeeperAnswer([string]$Line) {
    $script:ToKeeper.WriteLine($Line)
    $said = $script:FromKeeper.ReadLine()
    if ($null -eq $said) { throw 'the process that removes the snapshots has ended' }
    $said
}

# All of them before the first is read; after the first failure, no more.
function New-Shadows($Question) {
    if ($script:Pipe) { throw 'there are snapshots already' }
    Start-Keeper
    $devices = @()
    $watch = [Diagnostics.Stopwatch]::StartNew()
    $first = 0
    foreach ($volume in @($Question.volumes)) {
        $kind, $rest = (Get-KeeperAnswer ([string]$volume)) -split ' ', 2
        if ($kind -eq 'failed') { return @{ devices = @(); failed = [string]$volume; code = [int]$rest; span = 0.0 } }
        if ($kind -ne 'made') { throw "${volume}: $rest" }
        if (-not $devices) { $first = $watch.Elapsed.TotalSeconds }
        $devices += $rest
    }
    @{ devices = @($devices); failed = ''; code = 0; span = [double]($watch.Elapsed.TotalSeconds - $first) }
}

function Remove-Shadows {
    if (-not $script:Pipe) { throw 'there are no snapshots' }
    $kind, $rest = (Get-KeeperAnswer 'remove') -split ' ', 2
    if ($kind -ne 'removed') { throw $rest }
    $gone, $left = $rest -split ';', 2
    $script:Pipe.Dispose()
    $script:Pipe = $null
    @{ gone = @($gone -split ',' | Where-Object { $_ }); left = @($left -split ',' | Where-Object { $_ }) }
}

$hello = Get-Hello
$able = $hello.administrator -and -not $hello.problem
if ($able -and $Role -eq 'inventory') {
    try {
        $hello += Get-Inventory
    } catch {
        $hello.problem = 'its inventory cannot be read: ' + $_.Exception.Message
    }
}
Send-Answer $Magic $hello
if ($able) {
    switch ($Role) {
        'reader' {
            $names = [string[]]@(Get-VolumeNames)
            [P2V.Server]::new($In, $Out, $names).Serve()
        }
        'guard' {
            Invoke-Questions @{
                usage = { @{ volumes = @(Get-Volumes) } }
                flush = { [P2V.Server]::Flush([string[]]@(Get-VolumeNames)); @{} }
            }
        }
        'snapshots' {
            $script:Pipe = $null
            try {
                Invoke-Questions @{ create = { New-Shadows $args[0] }; remove = { Remove-Shadows } }
            } finally {
                # What it made, the keeper removes when the pipe ends.
                if ($script:Pipe) { $script:Pipe.Dispose() }
            }
        }
    }
}
