"""The workloads: one module per kind of work; `ALL` has all variants."""

from __future__ import annotations

from workloads import (
    bus,
    bus_own,
    churn,
    cold_start,
    event_loop,
    fan_out,
    frames,
    graph,
    graph_own,
    growth,
    idle,
    objects,
    records,
    round_trip,
    store,
    store_own,
    stream,
    stream_own,
    throughput,
    two_threads,
)

ALL = {
    workload.key: workload
    for module in (
        records,
        round_trip,
        throughput,
        two_threads,
        frames,
        objects,
        fan_out,
        event_loop,
        idle,
        cold_start,
        churn,
        growth,
        stream,
        stream_own,
        store,
        store_own,
        bus,
        bus_own,
        graph,
        graph_own,
    )
    for workload in module.WORKLOADS
}
