#include "heap/kinds.h"

#include "bus/endpoint.h"
#include "record/endpoint.h"
#include "static/static.h"
#include "store/endpoint.h"
#include "stream/endpoint.h"

/*
 * A new kind gets a number in ipcheap.h and a line here. No other code of the core names every kind,
 * except the checks (observe/check_channels.c), which share no code with what they check.
 */
const struct kind *const kinds[KINDS] = {
    [IPCHEAP_RECORD_CHANNEL] = &record_kind,
    [IPCHEAP_STATIC_SEGMENT] = &static_kind,
    [IPCHEAP_STREAM] = &stream_kind,
    [IPCHEAP_STORE] = &store_kind,
    [IPCHEAP_BUS] = &bus_kind,
};
