// Threads that share out the tasks of one loop after another.
#pragma once

#include <cstdint>

// Calls body(context, task, worker) once for every task of [0, tasks), on at most `threads` threads, the caller's among
// them; returns when all are done. Tasks are handed out in order, one at a time, to whoever is free. Workers are
// numbered from 0, so that each can have working memory of its own.
//
// Why not OpenMP: its loops end at a barrier that every thread must reach, so on a processor shared with other programs
// each loop waits until the system has run every thread once, milliseconds instead of microseconds. Here a thread that
// is not running when a loop begins is simply not missed: whoever is awake does its share.
void share_out(int threads, int64_t tasks, void (*body)(const void* context, int64_t task, int worker), const void* context);

// The same for anything that can be called with (task, worker).
template <class Body>
inline void share_out(int threads, int64_t tasks, const Body& body) {
    share_out(threads, tasks, [](const void* context, int64_t task, int worker) { (*(const Body*)context)(task, worker); },
              &body);
}
