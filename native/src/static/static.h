/*
 * static.h - layer static: the kind of named segments, whose answers channel/kind.h explains.
 *
 *   channel->ready   0 untouched  ->  the initialiser's OWN tag  ->  STATIC_READY
 *                         ^  it failed or died  |
 *
 * A process that maps a segment is one of its users: channel/users.h. The table of kinds is the only
 * caller.
 */
#ifndef IPCHEAP_STATIC_STATIC_H
#define IPCHEAP_STATIC_STATIC_H

#include "channel/kind.h"

extern const struct kind static_kind;

#endif
