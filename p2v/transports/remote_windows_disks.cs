// Part of remote_windows.ps1, which compiles it on a Windows source: how disks and volumes are read there.
// C# 5, which is what Windows PowerShell compiles.
namespace P2V
{
    using System;
    using System.Collections.Generic;
    using System.ComponentModel;
    using System.IO;
    using System.Runtime.InteropServices;
    using Microsoft.Win32.SafeHandles;

    // What Windows says of devices. Control codes: winioctl.h; error numbers: winerror.h.
    public static class Native
    {
        const uint GenericRead = 0x80000000, GenericWrite = 0x40000000, ShareReadWrite = 3, OpenExisting = 3;
        const uint LengthInfo = 0x0007405C, AllowExtendedDasdIo = 0x00090083, NtfsVolumeData = 0x00090064;
        const uint VolumeBitmap = 0x0009006F, VolumeDiskExtents = 0x00560000;
        const int MoreData = 234;

        [DllImport("kernel32.dll", CharSet = CharSet.Unicode, SetLastError = true, ExactSpelling = true)]
        static extern SafeFileHandle CreateFileW(
            string name, uint access, uint share, IntPtr security, uint disposition, uint flags,
            IntPtr template);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool ReadFile(
            SafeFileHandle file, [Out] byte[] buffer, int size, out int done, IntPtr overlapped);

        [DllImport("kernel32.dll", SetLastError = true, ExactSpelling = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetFilePointerEx(
            SafeFileHandle file, long distance, out long position, uint method);

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

        // Lets the last sectors of a volume be read, behind its filesystem; refused by what is no volume.
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

        // Bytes that can be read: of an NTFS volume, its sectors; of anything else, all of the device.
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

        // Where a volume stands: disk number, start, length, and again for each piece of it.
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

        // 1 BIOS, 2 UEFI, 0 where this Windows does not say (before 8).
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

        // Bytes of a cluster and the number of clusters of an NTFS volume.
        public static long[] Clusters(SafeFileHandle file)
        {
            byte[] told = Ask(file, NtfsVolumeData, null, 512);
            return new long[] { BitConverter.ToUInt32(told, 44), BitConverter.ToInt64(told, 16) };
        }

        // One bit for each cluster from `first` on, which is a multiple of 8; `wanted` bytes of them.
        public static byte[] Bits(SafeFileHandle file, long first, int wanted)
        {
            byte[] answer = new byte[16 + wanted];
            int done;
            byte[] start = BitConverter.GetBytes(first);
            bool whole = DeviceIoControl(
                file, VolumeBitmap, start, 8, answer, answer.Length, out done, IntPtr.Zero);
            if (!whole && Marshal.GetLastWin32Error() != MoreData)
                throw new Win32Exception(Marshal.GetLastWin32Error());
            if (BitConverter.ToInt64(answer, 0) != first || done < 16 + wanted)
                throw new IOException("the bitmap of the volume is shorter than the volume");
            byte[] found = new byte[wanted];
            Buffer.BlockCopy(answer, 16, found, 0, wanted);
            return found;
        }
    }

    public abstract class Disk
    {
        public long Size;

        public abstract void Read(byte[] into, int at, long offset, int size);
    }

    // A device, read in whole sectors: 4096 bytes are whole sectors of every disk.
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

    // The bitmap of a volume, which is read like a disk: "bitmap:" and the name of the device. First the bytes
    // of a cluster and the number of clusters, little-endian 64 bits each, then the bits.
    public class BitmapDisk : Disk
    {
        public const string Prefix = "bitmap:";
        const int HeadSize = 16, PieceSize = 1 << 20;
        readonly SafeFileHandle file;
        readonly byte[] head = new byte[HeadSize];
        byte[] piece = new byte[0];
        long known = -1;

        public BitmapDisk(string path)
        {
            file = Native.Open(path.Substring(Prefix.Length));
            long[] clusters = Native.Clusters(file);
            BitConverter.GetBytes(clusters[0]).CopyTo(head, 0);
            BitConverter.GetBytes(clusters[1]).CopyTo(head, 8);
            Size = HeadSize + (clusters[1] + 7) / 8;
        }

        public override void Read(byte[] into, int at, long offset, int size)
        {
            while (size > 0)
            {
                byte[] from = offset < HeadSize ? head : Piece((offset - HeadSize) / PieceSize);
                int skip = (int)(offset < HeadSize ? offset : (offset - HeadSize) % PieceSize);
                int part = Math.Min(size, from.Length - skip);
                Buffer.BlockCopy(from, skip, into, at, part);
                offset += part;
                at += part;
                size -= part;
            }
        }

        byte[] Piece(long number)
        {
            if (number != known)
            {
                long first = number * PieceSize;
                piece = Native.Bits(file, first * 8, (int)Math.Min(PieceSize, Size - HeadSize - first));
                known = number;
            }
            return piece;
        }
    }

    // A disk of which some pieces are read from other devices: volumes from their snapshots.
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
}
