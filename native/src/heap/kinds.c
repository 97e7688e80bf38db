#include "heap/kinds.h"

#include "record/endpoint.h"
#include "static/static.h"

/* The only place that names every kind. A new kind gets a number in ipcheap.h and a line here. */
const struct kind *const kinds[KINDS] = {
    [IPCHEAP_RECORD_CHANNEL] = &record_kind,
    [IPCHEAP_STATIC_SEGMENT] = &static_kind,
};
