// Part of remote_windows.ps1, which compiles it on a Windows source: answers the frames of remote_reader.py.
// C# 5, which is what Windows PowerShell compiles. Request !BIHQII, pairs !II, response !BIBII32s. `Table` is
// made of the table in the script.
namespace P2V
{
    using System;
    using System.Collections.Concurrent;
    using System.Collections.Generic;
    using System.ComponentModel;
    using System.Diagnostics;
    using System.Globalization;
    using System.IO;
    using System.Security.Cryptography;
    using System.Text;
    using System.Threading;

    // As much of JSON as the local side sends: lists of lists, texts and whole numbers.
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

    // One answer on its way.
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

    // requests -> this thread: reads the disk -> workers: digest, compression -> one writer, in order
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

        // Answers until it is told to quit or the line ends.
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

        // Exactly so many bytes; null at the end of the line.
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

        // One volume that cannot be flushed is no reason not to read.
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
                long last = (long)start + size;
                if (start < end || size < 0 || last > job.Length || last > disk.Size - offset)
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

        // The block with zeros around the pairs. Where only approved code may run, SHA256.Create() does not.
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
