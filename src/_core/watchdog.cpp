// The watchdog: threads that notice when no rank of the job makes progress, report where each one is, and end the job.
//
// They never take the GIL, for a rank may be stuck while it holds it, and they use no MPI, for a rank may be stuck in
// there. What they know of each other:
//
// - The ranks of a node share a piece of memory with a slot for each. Python's ticks and phases go right into it, with
//   a time: one kernel, one clock. Each watching thread writes there, too, when it was last awake.
// - If the job has several nodes, one rank of each speaks for it (the lowest that is awake) through a file on a disk
//   that the nodes share: one record a node and cycle. Clocks of nodes are never compared: a record says how long ago
//   its node got on, and counts only while it changes. A disk may block for ever, so a thread of its own does this.
//
// Nothing here waits without an end: not for other ranks, not for the disk, not for the reader of stderr.
#include "watchdog.hpp"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace mpihpc::watchdog {
namespace {

using std::int64_t;
using std::string;
using std::uint32_t;
using std::uint64_t;

constexpr int64_t MS = 1'000'000, SECOND = 1000 * MS;

int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

// The same clock, a few milliseconds late and a few times cheaper.
int64_t about_now() {
#ifdef CLOCK_MONOTONIC_COARSE
    timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
#else
    return now();
#endif
}

void pause_ns(int64_t ns) {
    timespec t{time_t(ns / SECOND), long(ns % SECOND)};
    nanosleep(&t, nullptr);
}

// A short text with one writer. A reader may see it half written only if the writer was stopped in the middle.
template <int WORDS>
class Text {
public:
    void set(const char *text, std::size_t size) {
        if (size > WORDS * 8)
            for (size = WORDS * 8; size > 0 && (text[size] & 0xC0) == 0x80;) --size;  // whole UTF-8 characters
        uint64_t copy[WORDS] = {};
        std::memcpy(copy, text, size);
        const uint32_t turn = turns.load(std::memory_order_relaxed);
        turns.store(turn + 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_release);
        for (int i = 0; i < WORDS; ++i) words[i].store(copy[i], std::memory_order_relaxed);
        turns.store(turn + 2, std::memory_order_release);
    }

    string get() const {
        uint64_t copy[WORDS + 1] = {};
        for (int attempt = 0; attempt < 1000; ++attempt) {
            const uint32_t before = turns.load(std::memory_order_acquire);
            for (int i = 0; i < WORDS; ++i) copy[i] = words[i].load(std::memory_order_relaxed);
            std::atomic_thread_fence(std::memory_order_acquire);
            if (before % 2 == 0 && turns.load(std::memory_order_relaxed) == before) break;
        }
        return reinterpret_cast<const char *>(copy);
    }

private:
    std::atomic<uint32_t> turns;
    std::atomic<uint64_t> words[WORDS];
};

constexpr int PHASE_WORDS = 8, PLACE_WORDS = 14;

enum State : uint32_t { absent, running, left, told };  // told: its stack is printed, the end is near

// Shared memory, zeros at first. One writer a slot.
struct alignas(64) Slot {
    std::atomic<uint64_t> progress;  // ticks and phases
    std::atomic<int64_t> last;       // when it last got on
    std::atomic<int64_t> awake;      // when its watching thread was last
    std::atomic<uint32_t> state;
    int32_t rank, pid;
    uint64_t born;
    Text<PHASE_WORDS> phase;
    Text<PLACE_WORDS> place;
};

struct alignas(64) Head {
    std::atomic<int64_t> fired;  // when the limit was found to be passed; 0: not
    std::atomic<uint32_t> reported;
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "atomics in shared memory must not need a lock");

// The file of the nodes: a NodeRecord a node, then a RankRecord a rank. The strides keep a record within a page.
enum Stage : uint32_t { quiet, fired, detailed, reported };
struct NodeRecord {
    uint64_t beat;  // changes with each record
    int64_t age;    // of the node's last progress
    uint32_t stage;
    uint32_t unused;
    uint64_t beat_again;  // differs from beat if the record was read half written
};
struct RankRecord {
    uint64_t progress;
    int64_t silence;  // since its watching thread was awake; -1: its node does not answer any more
    uint32_t state;
    int32_t node;
    int32_t rank, pid;
    char phase[PHASE_WORDS * 8 + 1], place[PLACE_WORDS * 8 + 1], host[40];
};
constexpr std::size_t NODE_STRIDE = 512, RANK_STRIDE = 256;
static_assert(sizeof(NodeRecord) <= NODE_STRIDE && sizeof(RankRecord) <= RANK_STRIDE);

// When a process was started, in a unit of the system's; 0: not known. With its id, a process's identity.
uint64_t birth(int pid) {
    char path[40], text[1024];
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    const ssize_t size = ::read(file, text, sizeof text - 1);
    ::close(file);
    if (size <= 0) return 0;
    text[size] = 0;
    const char *at = std::strrchr(text, ')');  // the name may contain anything
    for (int field = 2; at && field < 22; ++field) at = std::strchr(at + 1, ' ');
    unsigned long long value = 0;
    return at && std::sscanf(at, " %llu", &value) == 1 ? value : 0;
}

// Writes as much as the reader takes within the time. Pieces of PIPE_BUF never block once poll reports space.
void say(const string &text, int64_t deadline) {
    for (std::size_t at = 0; at < text.size();) {
        pollfd out{STDERR_FILENO, POLLOUT, 0};
        const int64_t left = (deadline - now()) / MS;
        if (left <= 0) return;
        const int ready = ::poll(&out, 1, int(left));
        if (ready < 0 && errno != EINTR) return;
        if (ready <= 0) continue;
        const std::size_t piece = std::min<std::size_t>(text.size() - at, PIPE_BUF);
        const ssize_t done = ::write(STDERR_FILENO, text.data() + at, piece);
        if (done < 0 && errno != EINTR && errno != EAGAIN) return;
        at += std::size_t(std::max<ssize_t>(done, 0));
    }
}

string seconds_text(int64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f s", double(ns) / double(SECOND));
    return text;
}

// "rank 3", "ranks 0-2, 7"; sorted.
string ranks_text(const std::vector<int> &ranks) {
    string text = ranks.size() == 1 ? "rank " : "ranks ";
    for (std::size_t i = 0; i < ranks.size();) {
        std::size_t end = i;
        while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1) ++end;
        if (end == i + 1) --end;  // "0, 1" rather than "0-1"
        text += (i ? ", " : "") + std::to_string(ranks[i]) + (end > i ? "-" + std::to_string(ranks[end]) : "");
        i = end + 1;
    }
    return text;
}

string where_text(const string &phase, const string &place) {
    return "phase '" + phase + "'" + (place.empty() ? "" : ", at " + place);
}

// "file.py:12 in function": the innermost frame in faulthandler's text of the thread that got the signal.
string innermost(const string &stack) {
    std::size_t at = stack.find("Current thread");
    at = stack.find("File \"", at == string::npos ? 0 : at);
    const std::size_t end = at == string::npos ? at : stack.find('\n', at);
    if (end == string::npos) return "";
    string line = stack.substr(at + 6, end - at - 6);
    const std::size_t quote = line.find("\", line ");
    if (quote == string::npos) return "";
    const std::size_t slash = line.rfind('/', quote);
    const std::size_t begin = slash == string::npos ? 0 : slash + 1;
    return line.substr(begin, quote - begin) + ":" + line.substr(quote + 8);
}

class Watchdog {
public:
    explicit Watchdog(const Options &options) : options(options), process(::getpid()), main(::pthread_self()) {
        limit = int64_t(options.seconds * double(SECOND));
        cycle = std::clamp(limit / 20, 50 * MS, 500 * MS);
        // How long ranks may take to say where they are. Late ones are called silent, so it is not less than needed
        // on a busy machine; through a file it takes a few cycles more.
        grace = std::max(SECOND, 2 * cycle);
        patience = options.job_file.empty() ? grace : grace + 3 * SECOND / 2;
        gethostname(host, sizeof host - 1);

        const int flags = options.memory < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
        void *memory = ::mmap(nullptr, node_bytes(options.slots), PROT_READ | PROT_WRITE, flags, options.memory, 0);
        if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category());
        head = static_cast<Head *>(memory);
        slots = reinterpret_cast<Slot *>(head + 1);
        mine = slots + options.slot;
        if (!options.job_file.empty()) {
            // O_DSYNC: written at once, and NFS never sends more of a page than what was written.
            file = ::open(options.job_file.c_str(), O_RDWR | O_DSYNC | O_CLOEXEC);
            if (file < 0) give_up(errno);
        }
        mine->rank = options.rank;
        mine->pid = process;
        mine->born = birth(process);
        mine->phase.set("start", 5);
        mine->last = mine->awake = now();
        mine->state = running;
        if (file >= 0) {
            const RankRecord record = record_of(*mine);
            const std::size_t at = NODE_STRIDE * std::size_t(options.nodes) + RANK_STRIDE * std::size_t(options.rank);
            if (::pwrite(file, &record, sizeof record, off_t(at)) < 0) give_up(errno);
        }

        // Signals are for the program's own threads.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        threads.emplace_back([this] { watch(); });
        if (file >= 0) threads.emplace_back([this] { carry(); });
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    [[noreturn]] void give_up(int error) {
        if (file >= 0) ::close(file);
        ::munmap(head, node_bytes(options.slots));
        throw std::system_error(error, std::generic_category());
    }

    // After this the object may go, but in a forked child, which has no such threads.
    bool end() {
        if (::getpid() != process) return false;
        {
            std::lock_guard<std::mutex> lock(mutex);
            stopping = true;
        }
        wake.notify_all();
        threads[0].join();  // if it is firing, this is the end
        mine->state = left;
        // The carrier may be stuck on the disk; what it uses then stays for ever.
        const int64_t deadline = now() + SECOND;
        while (threads.size() > 1 && !carrier_done) {
            if (now() > deadline) {
                threads[1].detach();
                return false;
            }
            pause_ns(MS);
        }
        if (threads.size() > 1) threads[1].join();
        if (file >= 0) ::close(file);
        ::munmap(head, node_bytes(options.slots));
        return true;
    }

    void progress() {
        mine->last.store(about_now(), std::memory_order_relaxed);
        mine->progress.fetch_add(1, std::memory_order_relaxed);
    }

    void phase(const char *text, std::size_t size) {
        mine->phase.set(text, size);
        progress();
    }

private:
    const Options options;
    const int process;
    const pthread_t main;
    int64_t limit, cycle, grace, patience;
    char host[256] = {};
    Head *head;
    Slot *slots, *mine;
    int file = -1;
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable wake;
    bool stopping = false;

    // Between the watching thread and the carrier.
    std::atomic<bool> speaking{false}, listening{false}, carrier_done{false}, failed{false};
    std::atomic<int64_t> heard{0}, others_last{0};
    std::atomic<uint32_t> stage{quiet}, gathered{0};
    string failure;                   // the carrier's until `failed`
    bool complained = false;
    std::vector<RankRecord> records;  // all ranks'; the carrier's until `gathered`

    // False: the time to stop has come.
    bool sleep() {
        std::unique_lock<std::mutex> lock(mutex);
        return !wake.wait_for(lock, std::chrono::nanoseconds(cycle), [this] { return stopping; });
    }

    void watch() {
        int64_t before = now(), resumed = before;
        while (sleep()) {
            const int64_t t = now();
            mine->awake = t;
            if (head->fired) fire();
            // If this thread did not run for a while, the whole job may have been suspended: nobody could get on.
            if (t - before > cycle + std::max(SECOND, cycle)) resumed = t;
            before = t;
            const bool first = lowest([&](const Slot &s) {
                return s.state == running && t - s.awake < std::max(SECOND, 3 * cycle);
            }) == mine;
            speaking = first;
            if (!first) continue;
            const int64_t last = std::max(node_last(), resumed);
            listening = t - last > limit / 2;
            if (t - last < limit || !others_stuck(t, last)) continue;
            int64_t never = 0;
            head->fired.compare_exchange_strong(never, t);
            fire();
        }
    }

    template <class Test>
    Slot *lowest(Test test) const {
        Slot *found = std::find_if(slots, slots + options.slots, test);
        return found == slots + options.slots ? nullptr : found;
    }

    int64_t node_last() const {
        int64_t last = 0;
        for (int i = 0; i < options.slots; ++i) last = std::max<int64_t>(last, slots[i].last);
        return last;
    }

    // Whether the other nodes do not get on either, as far as is known.
    bool others_stuck(int64_t t, int64_t last) {
        if (file < 0) return true;
        if (failed) {
            // Other nodes may get on. (Not said before it matters: at the end, the file just goes first.)
            if (!complained)
                say("mpihpc: rank " + std::to_string(options.rank) + ": no rank of this node got on for " +
                        seconds_text(limit) + ", but the heartbeat file " + options.job_file + " cannot be used (" +
                        failure + "), so the job goes on\n",
                    now() + SECOND);
            complained = true;
            return false;
        }
        // No news: the disk is stuck, or one of its calls is. Others may get on for the limit from the last news.
        if (t - heard > std::max(2 * SECOND, 4 * cycle)) return t - std::max<int64_t>(heard, last) > limit + SECOND;
        return t - others_last >= limit;
    }

    // ---- the file that speaks to other nodes

    void carry() {
        std::vector<char> page(NODE_STRIDE * std::size_t(options.nodes));
        struct Known {
            uint64_t beat;
            bool fresh;
        };
        std::vector<Known> known(std::size_t(options.nodes), Known{0, false});
        int64_t session = 0, wrote_ranks = 0;  // when the nodes were last read, the ranks written
        while (stage != quiet ? pause_ns(50 * MS), true : sleep()) {
            if (!speaking || failed) continue;
            try {
                const int64_t begin = now();
                write_node(stage);
                if (stage >= detailed) gather(page);
                // What the others can tell if this node goes away.
                if (stage == quiet && begin - wrote_ranks > std::min(limit / 4, SECOND)) {
                    write_ranks();
                    wrote_ranks = begin;
                }
                if (!listening && stage == quiet) continue;
                read(page.data(), page.size(), 0);
                const int64_t t = now();
                if (t - session > std::max(2 * SECOND, 4 * cycle))
                    std::fill(known.begin(), known.end(), Known{0, false});
                session = t;
                int64_t last = others_last;
                for (int n = 0; n < options.nodes; ++n) {
                    NodeRecord record;
                    std::memcpy(&record, page.data() + NODE_STRIDE * std::size_t(n), sizeof record);
                    if (n == options.node || record.beat != record.beat_again) continue;
                    Known &node = known[std::size_t(n)];
                    // A record counts once it was seen to change: the first one may have been written at any time.
                    if (node.beat && node.beat != record.beat) {
                        last = std::max(last, t - record.age);
                        int64_t never = 0;
                        if (record.stage != quiet) head->fired.compare_exchange_strong(never, t);
                    }
                    node.beat = record.beat;
                }
                others_last = last;
                heard = t;
            } catch (const std::system_error &error) {
                if (stage >= detailed && error.code().value() == ENOENT) gathered = 2;  // removed at the end
                failure = error.code().message();
                failed = true;
            }
        }
        carrier_done = true;
    }

    void write_node(uint32_t stage) {
        const int64_t t = now();
        const NodeRecord record{uint64_t(t), t - node_last(), stage, 0, uint64_t(t)};
        write(&record, sizeof record, NODE_STRIDE * std::size_t(options.node));
    }

    void write_ranks() {
        const std::size_t base = NODE_STRIDE * std::size_t(options.nodes);
        std::vector<char> text;
        for (int i = 0; i < options.slots; ++i) {
            const RankRecord record = record_of(slots[i]);
            text.resize(text.size() + RANK_STRIDE);
            std::memcpy(text.data() + text.size() - RANK_STRIDE, &record, sizeof record);
            if (i + 1 < options.slots && slots[i + 1].rank == slots[i].rank + 1) continue;
            const std::size_t first = std::size_t(slots[i].rank + 1) - text.size() / RANK_STRIDE;
            write(text.data(), text.size(), base + RANK_STRIDE * first);
            text.clear();
        }
    }

    // Writes what this node's ranks said, and reads it of all nodes when they are through.
    void gather(std::vector<char> &page) {
        const std::size_t base = NODE_STRIDE * std::size_t(options.nodes);
        write_ranks();
        write_node(stage);
        read(page.data(), page.size(), 0);
        bool all = true, lower = false, done = false;
        for (int n = 0; n < options.nodes; ++n) {
            NodeRecord record;
            std::memcpy(&record, page.data() + NODE_STRIDE * std::size_t(n), sizeof record);
            all = all && record.stage >= detailed;
            lower = lower || (n < options.node && record.stage >= detailed);
            done = done || record.stage == reported;
        }
        const bool late = now() - head->fired > patience;
        if (gathered == 0 && !lower && (all || late)) {
            std::vector<char> text(RANK_STRIDE * std::size_t(options.size));
            read(text.data(), text.size(), base);
            records.resize(std::size_t(options.size));
            for (std::size_t r = 0; r < records.size(); ++r) {
                std::memcpy(&records[r], text.data() + RANK_STRIDE * r, sizeof(RankRecord));
                NodeRecord node;
                const int n = std::clamp(records[r].node, 0, options.nodes - 1);
                std::memcpy(&node, page.data() + NODE_STRIDE * std::size_t(n), sizeof node);
                if (node.stage < detailed) records[r].silence = -1;
            }
            gathered = 1;  // this node reports
        } else if (gathered == 0 && done) {
            gathered = 2;  // another one has
        }
    }

    void write(const void *data, std::size_t size, std::size_t at) {
        const ssize_t done = ::pwrite(file, data, size, off_t(at));
        if (done != ssize_t(size)) throw std::system_error(done < 0 ? errno : ENOSPC, std::generic_category());
    }

    void read(void *data, std::size_t size, std::size_t at) {
        // NFS looks for news when a file is opened.
        const int fresh = ::open(options.job_file.c_str(), O_RDONLY | O_CLOEXEC);
        if (fresh < 0) throw std::system_error(errno, std::generic_category());
        const ssize_t done = ::pread(fresh, data, size, off_t(at));
        const int error = errno;
        ::close(fresh);
        if (done != ssize_t(size)) throw std::system_error(done < 0 ? error : EIO, std::generic_category());
    }

    // ---- the end

    [[noreturn]] void fire() {
        if (head->reported) ::_exit(1);  // it was stopped, and goes on too late
        const int64_t begin = head->fired;
        uint32_t calm = quiet;
        stage.compare_exchange_strong(calm, fired);
        tell(begin);
        bool mine_to_say = false;
        for (;; pause_ns(10 * MS)) {
            const int64_t t = now();
            mine->awake = t;
            if (head->reported || t - begin > patience + SECOND) break;
            const bool all = !lowest([](const Slot &s) { return s.state == running; });
            if (!all && t - begin < grace) continue;
            if (lowest([](const Slot &s) { return s.state == told; }) != mine) continue;
            mine_to_say = true;
            if (file >= 0 && !failed) {
                speaking = true;
                if (stage == fired) stage = detailed;
                if (gathered == 0 && t - begin < patience + 700 * MS) continue;
            }
            if (gathered == 0) {  // one node, or the disk does not answer
                records.clear();
                for (int i = 0; i < options.slots; ++i) records.push_back(record_of(slots[i]));
            }
            if (gathered != 2) say(report(), now() + SECOND);
            if (stage == detailed) {
                stage = reported;
                pause_ns(200 * MS);  // the carrier tells the other nodes
                ::unlink(options.job_file.c_str());
            }
            head->reported = 1;
            break;
        }
        if (mine_to_say) {
            pause_ns(100 * MS);  // so that the launcher's exit code is that of a rank that ended by itself
            kill_silent();
        }
        ::_exit(1);
    }

    // Prints where this rank is.
    void tell(int64_t begin) {
        string stack;
        if (options.signal && ::lseek(options.stack, 0, SEEK_END) >= 0 && ::pthread_kill(main, options.signal) == 0) {
            // The handler writes in small pieces and does not say when it is through.
            off_t size = 0;
            int still = 0;
            for (int i = 0; i < 50 && still < 3; ++i) {
                pause_ns(10 * MS);
                mine->awake = now();
                struct stat info;
                if (::fstat(options.stack, &info) != 0) break;
                still = info.st_size > 0 && info.st_size == size ? still + 1 : 0;
                size = info.st_size;
            }
            stack.resize(std::size_t(std::min<off_t>(size, 32768)));
            const ssize_t got = ::pread(options.stack, stack.data(), stack.size(), 0);
            stack.resize(std::size_t(std::max<ssize_t>(got, 0)));
        }
        const string place = innermost(stack);
        mine->place.set(place.data(), place.size());
        string text = "mpihpc: rank " + std::to_string(options.rank) + " of " + std::to_string(options.size) +
                      " (process " + std::to_string(process) + " on " + host + "), last progress " +
                      seconds_text(now() - mine->last) + " ago, phase '" + mine->phase.get() + "'\n";
        if (stack.empty()) text += "  no stack: the main thread does not take signals\n";
        for (std::size_t at = 0; at < stack.size();) {
            const std::size_t end = std::min(stack.find('\n', at), stack.size());
            if (end > at) text += "  " + stack.substr(at, end - at) + "\n";
            at = end + 1;
        }
        say(text, std::max(begin + grace, now() + SECOND / 2));
        mine->state = told;
    }

    RankRecord record_of(const Slot &slot) const {
        RankRecord record{};
        record.progress = slot.progress;
        record.silence = now() - slot.awake;
        record.state = slot.state;
        record.node = options.node;
        record.rank = slot.rank;
        record.pid = slot.pid;
        slot.phase.get().copy(record.phase, sizeof record.phase - 1);
        slot.place.get().copy(record.place, sizeof record.place - 1);
        std::memcpy(record.host, host, sizeof record.host - 1);
        return record;
    }

    // The ranks that are missing or behind, and where the others wait. Ranks in the same place share a line.
    string report() const {
        std::vector<const RankRecord *> silent, here;
        std::vector<int> gone, unheard;
        for (std::size_t i = 0; i < records.size(); ++i) {
            const RankRecord &r = records[i];
            if (r.state == absent) unheard.push_back(int(i));
            if (r.state == left) gone.push_back(r.rank);
            if (r.state == running) silent.push_back(&r);
            if (r.state == told) here.push_back(&r);
        }
        const string prefix = "mpihpc: ";
        string text = prefix + "timeout: no rank got on for " + seconds_text(limit) + ", so the job ends (" +
                      std::to_string(here.size()) + " of " + std::to_string(options.size) + " ranks respond)\n";
        int lines = 0;
        for (const RankRecord *r : silent)
            if (++lines <= 50)
                text += prefix + "rank " + std::to_string(r->rank) + " does not respond" +
                        (r->silence < 0 ? ", nor does its node"
                                        : " (stopped?), silent for " + seconds_text(r->silence)) +
                        ": process " + std::to_string(r->pid) + " on " + r->host + ", last " +
                        where_text(r->phase, "") + "\n";
        if (lines > 50) text += prefix + "and " + std::to_string(lines - 50) + " more do not respond\n";
        if (!unheard.empty())
            text += prefix + ranks_text(unheard) + (unheard.size() > 1 ? " have" : " has") + " never been heard of\n";
        if (!gone.empty()) text += prefix + ranks_text(gone) + (gone.size() > 1 ? " have" : " has") + " finished\n";

        // Behind: least progress. Of ranks that are equal, those that are not where most are.
        std::vector<int> behind;
        if (silent.empty() && unheard.empty() && here.size() > 1) {
            std::map<string, std::size_t> places;
            uint64_t least = here[0]->progress, most = least;
            for (const RankRecord *r : here) {
                ++places[r->place];
                least = std::min(least, r->progress);
                most = std::max(most, r->progress);
            }
            std::size_t crowd = 0;
            for (const auto &place : places) crowd = std::max(crowd, place.second);
            std::vector<int> last, apart;
            for (const RankRecord *r : here) {
                if (r->progress != least) continue;
                last.push_back(r->rank);
                if (places[r->place] < crowd) apart.push_back(r->rank);
            }
            behind = !apart.empty() ? apart : least < most ? last : apart;
        }
        std::map<string, std::vector<int>> groups;
        for (const RankRecord *r : here) {
            const bool late = std::find(behind.begin(), behind.end(), r->rank) != behind.end();
            groups[string(late ? "0" : "1") + where_text(r->phase, r->place)].push_back(r->rank);
        }
        lines = 0;
        for (const auto &[where, ranks] : groups)
            if (++lines <= 50)
                text += prefix + ranks_text(ranks) +
                        (where[0] == '0' ? (ranks.size() > 1 ? " are behind: " : " is behind: ")
                         : here.size() == records.size() && behind.empty() ? ": "
                         : ranks.size() > 1                                ? " wait: "
                                                                           : " waits: ") +
                        where.substr(1) + "\n";
        if (lines > 50) text += prefix + "and " + std::to_string(lines - 50) + " more places\n";
        return text;
    }

    // A launcher may leave stopped ranks behind, and Slurm may wait for them: they are ended here. Only processes that
    // were ranks of this job, and still are: the id and the time of birth agree.
    void kill_silent() {
        for (int i = 0; i < options.slots; ++i) {
            const Slot &slot = slots[i];
            if (slot.state != running || slot.pid == process || slot.born == 0) continue;
            if (birth(slot.pid) == slot.born) ::kill(slot.pid, SIGKILL);
        }
    }
};

Watchdog *current = nullptr;  // changes only under the GIL, as all calls from Python

}  // namespace

std::size_t node_bytes(int slots) { return sizeof(Head) + sizeof(Slot) * std::size_t(slots); }

std::size_t job_bytes(int size, int nodes) {
    return NODE_STRIDE * std::size_t(nodes) + RANK_STRIDE * std::size_t(size);
}

int free_signal() {
    std::vector<int> candidates;
#ifdef SIGRTMAX
    // MPI libraries, UCX and profilers take the usual signals, valgrind takes the last.
    for (int number = SIGRTMAX - 3; number > SIGRTMIN + 8; --number) candidates.push_back(number);
#endif
    candidates.push_back(SIGUSR2);
    for (const int number : candidates) {
        struct sigaction action;
        if (::sigaction(number, nullptr, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
            action.sa_handler == SIG_DFL)
            return number;
    }
    return 0;
}

void start(const Options &options) {
    stop();
    current = new Watchdog(options);
}

void stop() {
    Watchdog *old = current;
    current = nullptr;
    if (old && old->end()) delete old;
}

void phase(const char *text, std::size_t size) {
    if (current) current->phase(text, size);
}

void tick() {
    if (current) current->progress();
}

}  // namespace mpihpc::watchdog
