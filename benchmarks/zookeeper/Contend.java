// Workers that contend for one name by way of Curator's InterProcessMutex, as benchmarks/fleet.py has Python's do.
//
// java -cp JARS Contend.java ADDRESS BOARD FIRST THREADS SECONDS SECTION_MS
//
// BOARD is a file of 16 bytes that all processes map: who had the last turn, and when that began to release
// (nanoseconds of this host's monotonic clock). It is written only inside the section, so that the lock guards it too.
// Prints "ready", waits for a line, contends, and prints a line for each worker:
// turns, hand-overs, overlaps, longest wait in ns, latencies of hand-overs in ns.

import java.io.RandomAccessFile;
import java.nio.ByteOrder;
import java.nio.LongBuffer;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.List;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.ExponentialBackoffRetry;

public class Contend {
    static final long WARM_UP_NS = 3_000_000_000L;

    final LongBuffer board;
    final CuratorFramework client;
    final long section;

    Contend(LongBuffer board, CuratorFramework client, long section) {
        this.board = board;
        this.client = client;
        this.section = section;
    }

    String contend(String name, long me, long end) throws Exception {
        InterProcessMutex mutex = new InterProcessMutex(client, name);
        long turns = 0, handovers = 0, overlaps = 0, longest = 0;
        StringBuilder latencies = new StringBuilder();
        for (long asked = System.nanoTime(); asked < end; asked = System.nanoTime()) {
            mutex.acquire();
            long got = System.nanoTime();
            long before = board.get(0);
            board.put(0, me);
            longest = Math.max(longest, got - asked);
            if (got < end) {
                turns++;
                if (before != me) {
                    handovers++;
                    if (before != 0) latencies.append(' ').append(got - board.get(1));
                }
            }
            if (section > 0) Thread.sleep(section);
            if (board.get(0) != me) overlaps++;
            board.put(1, System.nanoTime());
            mutex.release();
        }
        return turns + " " + handovers + " " + overlaps + " " + longest + latencies;
    }

    List<String> all(String name, long first, int threads, long nanoseconds) throws Exception {
        String[] said = new String[threads];
        long end = System.nanoTime() + nanoseconds;
        List<Thread> crew = new ArrayList<>();
        for (int n = 0; n < threads; n++) {
            final int at = n;
            Thread thread = new Thread(() -> {
                try {
                    said[at] = contend(name, first + at, end);
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
            thread.start();
            crew.add(thread);
        }
        for (Thread thread : crew) thread.join();
        return List.of(said);
    }

    public static void main(String[] given) throws Exception {
        try (RandomAccessFile file = new RandomAccessFile(given[1], "rw");
             CuratorFramework client = CuratorFrameworkFactory.newClient(given[0], new ExponentialBackoffRetry(100, 3))) {
            client.start();
            client.blockUntilConnected();
            LongBuffer board = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, 16)
                .order(ByteOrder.nativeOrder()).asLongBuffer();
            long first = Long.parseLong(given[2]), section = Long.parseLong(given[5]);
            int threads = Integer.parseInt(given[3]);
            // Until the virtual machine has compiled what is used, on a name that is this process's own.
            LongBuffer other = LongBuffer.allocate(2);
            new Contend(other, client, section).all("/warm/" + first, first, threads, WARM_UP_NS);
            System.out.println("ready");
            System.in.read();
            long nanoseconds = (long) (Double.parseDouble(given[4]) * 1e9);
            new Contend(board, client, section).all("/bench", first, threads, nanoseconds).forEach(System.out::println);
        }
    }
}
