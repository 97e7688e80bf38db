"""Kill participants of a heap at random, for as long as you like; then account for all of it.

    cd tests && python -m murder --seconds 10 --seed 7

Producers, consumers, forwarders and idle participants, a process each, work on one heap:

    0 -> consumer        1 -> forwarder -> 2 -> consumer
    3 -> forwarder -> 4 -> forwarder -> 5 -> consumer

with records of 8 bytes to 4 MiB. They are killed (SIGKILL) at random, stopped and continued,
and replaced. What each has done it writes down in memory that does not belong to the heap:
a word for every record of every channel, one store before an act and one after it. So when
somebody has been killed, it is known of each record that

    RECEIVED   he had it: it must come again
    LEAVING    he was freeing or forwarding it: it may come again, or is done with
    GONE       it was done with: it must never be seen again

and the consumer that follows must get just these first, in order, and then the first record
that nobody has had. In the end every record that was sent has gone from every channel,
heap use is back at what it was, `check()` finds nothing, and no kernel object is left.

Ends with 0 when all of that holds. What it chooses follows from the seed; when the kernel
runs whom does not, so a failure may take several runs to come again.
"""
