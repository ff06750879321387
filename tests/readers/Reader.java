import java.io.RandomAccessFile;
import java.util.Arrays;

/** Reads FILE COUNT times, as many bytes as the file is long; prints what was wrong. */
public class Reader {
    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[1]), bad = 0;
        for (int i = 0; i < count; i++) {
            int length = -1;
            byte[] value = {};
            try (RandomAccessFile file = new RandomAccessFile(args[0], "r")) {
                length = (int) file.length();
                value = new byte[length];
                file.readFully(value);
            } catch (java.io.EOFException cut) {
                length = -length;
            }
            byte[] good = new byte[Math.max(length, 0)];
            Arrays.fill(good, (byte) (length == 8 ? 'a' : length == 100 ? 'b' : length == 3000 ? 'c' : 'x'));
            if ((length < 1 || !Arrays.equals(good, value)) && bad++ == 0)
                System.err.println(length);
        }
        System.out.println(count + " read, " + bad + " wrong");
    }
}
