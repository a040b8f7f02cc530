// Stands for the PowerShell around the C# of the Windows script: its first words, then what it is asked for.
using System;
using System.IO;
using System.Text;

public static class Host
{
    public static int Main(string[] words)
    {
        Stream sink = Console.OpenStandardOutput();
        if (words[0] == "reader")
        {
            byte[] hello = Encoding.UTF8.GetBytes("{\"administrator\":true,\"problem\":\"\"}");
            sink.Write(new byte[] { 0, 80, 50, 86, 49, 0, 0, 0, 0, (byte)hello.Length }, 0, 10);
            sink.Write(hello, 0, hello.Length);
            sink.Flush();
            new P2V.Server(Console.OpenStandardInput(), sink, new[] { "C", "nowhere" }).Serve();
            return 0;
        }
        object said = null;
        if (words[0] == "extents")
            said = string.Join(" ", P2V.Native.Extents(words[1]));
        else if (words[0] == "size")
            said = P2V.Native.SizeOf(words[1]);
        else if (words[0] == "firmware")
            said = P2V.Native.Firmware();
        byte[] line = Encoding.UTF8.GetBytes(said + "\n");
        sink.Write(line, 0, line.Length);
        return 0;
    }
}
