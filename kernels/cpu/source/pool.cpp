#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

using Body = void (*)(const void*, int64_t, int);
using Clock = std::chrono::steady_clock;

// How long a thread looks for the next loop before it sleeps. Loops of one step follow each other in less, and waking a
// thread takes about as long.
constexpr auto PATIENCE = std::chrono::microseconds(100);

// The turn (which loop) and the next task in one word, so that a task can only be taken from the loop it belongs to.
constexpr int TASK_BITS = 32;
constexpr uint64_t TASK_MASK = (uint64_t(1) << TASK_BITS) - 1;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Calls `found` until it is true, for about PATIENCE.
template <class Found>
bool wait_briefly(Found found) {
    const auto deadline = Clock::now() + PATIENCE;
    do {
        for (int i = 0; i < 64; ++i) {
            if (found()) return true;
            relax();
        }
    } while (Clock::now() < deadline);
    return false;
}

int current_processor() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

// The processors that this thread was allowed when it started. A helper that wakes on the caller's processor, where the
// system likes to put it since its data is there, would only take turns with the caller; on virtual machines it was
// seen to stay there for good, with the next processor idle.
class Processors {
public:
#if defined(__linux__)
    Processors() { known_ = !sched_getaffinity(0, sizeof all_, &all_); }

    // Moves this thread if it runs where the caller does and may run elsewhere.
    void leave_to(int caller) const {
        if (!known_ || caller < 0 || caller != sched_getcpu()) return;
        cpu_set_t others = all_;
        CPU_CLR(caller, &others);
        if (CPU_COUNT(&others)) sched_setaffinity(0, sizeof others, &others);
    }

private:
    cpu_set_t all_;
    bool known_;
#else
    void leave_to(int) const {}
#endif
};

class Pool {
public:
    void run(int threads, int64_t tasks, Body body, const void* context) {
        if (threads < 2 || tasks < 2 || tasks > int64_t(TASK_MASK) || !busy_.try_lock()) return alone(tasks, body, context);
        std::lock_guard<std::mutex> hold(busy_, std::adopt_lock);
        open(threads, tasks, body, context);
        while (take_one(0)) {}
        while (done_.load(std::memory_order_acquire) != tasks)
            if (!wait_briefly([&] { return done_.load(std::memory_order_acquire) == tasks; })) sched_yield();
    }

private:
    static void alone(int64_t tasks, Body body, const void* context) {
        for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    }

    void open(int threads, int64_t tasks, Body body, const void* context) {
        while (helpers_ < threads - 1) start_helper();
        // Closed while it changes: a helper that is late must not take an old loop's task for a new one's.
        const uint64_t turn = (state_.load(std::memory_order_relaxed) >> TASK_BITS) + 1;
        state_.store(turn << TASK_BITS | TASK_MASK, std::memory_order_seq_cst);
        tasks_.store(tasks, std::memory_order_release);
        body_.store(body, std::memory_order_release);
        context_.store(context, std::memory_order_release);
        workers_.store(threads, std::memory_order_release);
        caller_.store(current_processor(), std::memory_order_release);
        done_.store(0, std::memory_order_relaxed);
        state_.store((turn + 1) << TASK_BITS, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst)) {
            { std::lock_guard<std::mutex> hold(sleep_); }
            wake_.notify_all();
        }
    }

    // Takes a task of the open loop and does it; false when there is none for this worker.
    bool take_one(int worker) {
        uint64_t state = state_.load(std::memory_order_acquire);
        for (;;) {
            const int64_t task = state & TASK_MASK, tasks = tasks_.load(std::memory_order_acquire);
            if (task >= tasks || worker >= workers_.load(std::memory_order_acquire)) return false;
            const Body body = body_.load(std::memory_order_acquire);
            const void* context = context_.load(std::memory_order_acquire);
            // Succeeds only if the loop is still the one that the lines above read.
            if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
            body(context, task, worker);
            done_.fetch_add(1, std::memory_order_acq_rel);
            return true;
        }
    }

    bool has_task(int worker) const {
        const int64_t task = state_.load(std::memory_order_seq_cst) & TASK_MASK;
        return task < tasks_.load(std::memory_order_acquire) && worker < workers_.load(std::memory_order_acquire);
    }

    void start_helper() {
        std::thread([this, worker = ++helpers_] { help(worker); }).detach();
    }

    [[noreturn]] void help(int worker) {
        const Processors allowed;
        for (;;) {
            allowed.leave_to(caller_.load(std::memory_order_acquire));
            while (take_one(worker)) {}
            if (wait_briefly([&] { return has_task(worker); })) continue;
            std::unique_lock<std::mutex> hold(sleep_);
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(hold, [&] { return has_task(worker); });
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        }
    }

    std::mutex busy_;  // Held while a loop runs; whoever finds it held does its loop alone.
    int helpers_ = 0;
    alignas(64) std::atomic<uint64_t> state_{TASK_MASK};
    std::atomic<int64_t> tasks_{0};
    std::atomic<Body> body_{nullptr};
    std::atomic<const void*> context_{nullptr};
    std::atomic<int> workers_{0};
    std::atomic<int> caller_{-1};
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
};

// Never destroyed: helpers may still look at it while the process ends. A forked child has none of its parent's
// threads, and perhaps a lock that one of them held, so it begins with a pool of its own.
Pool*& pool() {
    static Pool* shared = new Pool;
    static const int watched = pthread_atfork(nullptr, nullptr, [] { pool() = new Pool; });
    (void)watched;
    return shared;
}

}

void share_out(int threads, int64_t tasks, void (*body)(const void*, int64_t, int), const void* context) {
    pool()->run(threads, tasks, body, context);
}
