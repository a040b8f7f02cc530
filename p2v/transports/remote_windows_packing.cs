// Part of remote_windows.ps1, which compiles it on a Windows source: what is compressed there, and how.
// C# 5, which is what Windows PowerShell compiles.
namespace P2V
{
    using System;
    using System.Diagnostics;
    using System.IO;
    using System.IO.Compression;

    // Codec zlib (RFC 1950): two bytes, deflate, and the checksum of what was packed.
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
            uint high = ((uint)data[at] << 24) | ((uint)data[at + 1] << 16);
            return high | ((uint)data[at + 2] << 8) | data[at + 3];
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

        // Whether a quarter of it or more is zero, counted in pieces of 64 KiB.
        public static bool AreSparse(byte[] data, int size)
        {
            int pieces = 0, zero = 0;
            for (int at = 0; at + 65536 <= size; at += 65536, pieces++)
                if (AreZero(data, at, at + 65536))
                    zero++;
            return zero * 4 >= Math.Max(1, pieces);
        }
    }

    // Compresses where compressing a byte takes less time than the time on the wire that it saves.
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

        // What is sent for the data: itself where compressing does not pay or does not help.
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
}
