"""Kill participants of a heap at random, for any length of time; then account for every record.

    cd tests && python -m murder --seconds 10 --seed 7 --part channels

Producers, consumers, forwarders and idle participants, a process each, work on one heap:

    0 -> consumer        1 -> forwarder -> 2 -> consumer
    3 -> forwarder -> 4 -> forwarder -> 5 -> consumer

with records of 8 bytes to 4 MiB. Idle participants also use the heap in pools of threads, in forked
children and in children of a forkserver. A cleaner trims, recovers and checks all the time. They
are killed (SIGKILL) at random, stopped and continued, and replaced. Some have closed all
descriptors before, as daemons do, and opened files of their own, which must stay untouched; some
have given up the privileges of root. Each writes down what it does in memory that does not belong
to the heap: a word for every record of every channel, one store before an act and one after it. So
after a death it is known of each record that

    RECEIVED   the dead consumer had it: it must be redelivered
    LEAVING    the dead consumer was freeing or forwarding it: it may be redelivered or not
    GONE       it was done with: it must never be seen again

The next consumer must get exactly these first, in order, and then the first record that was never
received. In the end every record that was sent has left every channel, heap use is back at what it
was, `check()` finds nothing, and no kernel object is left.

Writers and readers of three streams use all their calls: one plain stream, one that overwrites, one
that both sides reset. The item at each position is the position, so a gap, a repetition and a torn
item show. Before and after each call a side writes down how far it may be, and its successor must
find its position in between.

There are two stores. Readers of a ledger (tests/store_ledger.py) check that they see whole
transactions only, hold some of what they get, and follow its writer. A forwarder puts the records
of a channel on a shelf,

    6 -> put_record -> reader

one by one or by transactions. What a killed forwarder was putting is on the shelf, or it must be
redelivered; never both. A reader of the shelf finds each record once, in order, and keeps some of
them. Idle participants remove stores whose chunks they hold.

There are three buses: on one nothing may be lost, one has a history and passes slow listeners, and
one is removed and added all the time. Writers post in all ways, also what they have received, and
broadcast. Listeners come and go, may be lossy, and hold, keep and hand to other threads what they
get. A message's name is its writer and its number. All that see a position write down the name
there, so two that disagree show. The positions of a listener have no gap, except for what it is
told that it lost. A writer knows of each listener what it has begun to release, so a broadcast that
returns too early shows. So does one that comes during the turn of another. A clerk, which is
stopped at times but never killed, receives everything: in the end each writer's numbers are on the
bus once and in order. No call may return much later than its deadline, although some of the others
are stopped for longer than that.

The exit code is 0 if all of that holds. The program's choices follow from the seed, but not the
kernel's scheduling, so a failure may take several runs to recur.
"""
