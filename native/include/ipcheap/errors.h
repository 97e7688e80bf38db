/*
 * errors.h - every way a call can fail, in one list.
 *
 * X(name, value, sentence). Functions return 0 or a count on success, and otherwise one of these
 * numbers, all negative. A call that fails changes nothing, unless its comment says otherwise.
 */
#ifndef IPCHEAP_ERRORS_H
#define IPCHEAP_ERRORS_H

#define IPCHEAP_ERRORS(X)                                                             \
    X(WOULD_BLOCK, -1, "the call would have to wait")                                 \
    X(TIMED_OUT, -2, "the time is up")                                                \
    X(INTERRUPTED, -3, "a signal arrived while waiting")                              \
    X(HEAP_EXISTS, -4, "the heap exists already")                                     \
    X(NOT_FORMATTED, -5, "the segment has not been formatted yet")                    \
    X(FORMAT_MISMATCH, -6, "this is no heap, or a heap of another format")            \
    X(HEAP_FULL, -7, "the heap has no room for this")                                 \
    X(MEMORY_FULL, -8, "the file system under the heap has no room for this")         \
    X(HEAP_CLOSED, -9, "the heap is closed")                                          \
    X(HEAP_BUSY, -10, "the heap lock was not free in time")                           \
    X(TOO_MANY_PARTICIPANTS, -11, "every participant slot of the heap is taken")      \
    X(CHANNEL_NOT_FOUND, -12, "there is no such channel")                             \
    X(CHANNEL_TYPE, -13, "the channel is of another kind or shape")                   \
    X(CHANNEL_BUSY, -14, "this side of the channel is taken")                         \
    X(CHANNEL_CLOSED, -15, "the other side has closed")                               \
    X(PEER_DIED, -16, "the other side has died")                                      \
    X(ENDPOINT_CLOSED, -17, "the endpoint is closed")                                 \
    X(RECORD, -18, "the record is not the caller's: freed, sent, or of another heap") \
    X(WRONG_THREAD, -20, "the endpoint belongs to another thread")                    \
    X(WRONG_PROCESS, -21, "the endpoint or record belongs to another process")        \
    X(CORRUPT, -22, "the segment holds what no participant would have written")       \
    X(BAD_VALUE, -23, "an argument is out of range")                                  \
    X(NO_MEMORY, -24, "the process is out of memory")                                 \
    X(SYSTEM, -25, "a system call failed; see errno")                                 \
    X(WOULD_SLEEP, -26, "the call has to sleep, and may not here")                    \
    X(OWNER_DIED, -27, "the last owner of the lock died holding it")                  \
    X(BROKEN, -28, "the barrier is broken")                                           \
    X(DESCRIPTOR_LOST, -29, "the heap's descriptors were closed by somebody else")    \
    X(NO_PROC, -30, "/proc is not mounted, which the heap's file is opened through")  \
    X(WINDOW, -31, "a window is open, or none is")                                    \
    X(STORE_FULL, -32, "the store has as many live chunks or bytes as it may")        \
    X(HOLDS, -33, "the reader holds as many chunks as it may")                        \
    X(TRANSACTION, -34, "a transaction is open, or none is")                          \
    X(CHANNEL_EXISTS, -35, "there is a channel of that ID already")                   \
    X(MESSAGES_LOST, -36, "the listener was passed, and lost messages")               \
    X(OWN_LISTENER, -37, "a listener of the calling thread is in the way")

enum ipcheap_error {
#define X(name, value, text) IPCHEAP_##name = (value),
    IPCHEAP_ERRORS(X)
#undef X
};

#endif
