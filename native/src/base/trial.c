#include "base/trial.h"

void trial_begin(struct trial *t, const struct schedule *s, int pinned) {
    *t = (struct trial){.next = s->first};
    if (pinned > 0) *t = (struct trial){.way = (uint32_t)pinned - 1};
}

static void note(struct trial *t, const struct schedule *s, uint64_t cost) {
    bool first = t->goes + s->tries == t->next || t->goes == t->next + s->warm_up;
    if (first || cost < t->best[t->way]) t->best[t->way] = cost;
}

bool trial_go(struct trial *t, const struct schedule *s, uint64_t cost) {
    if (!t->next) return false;
    if (trial_is_timed(t, s)) note(t, s, cost);
    if (++t->goes == t->next) t->way = !t->way;
    return t->goes == t->next + s->warm_up + s->tries;
}

void trial_decide(struct trial *t, const struct schedule *s, uint32_t way) {
    bool same = way == trial_usual(t);
    t->next = same ? (uint32_t)least(2 * t->next, s->later) : s->soon;
    t->goes = 0;
    t->way = way;
}

void trial_hurry(struct trial *t, const struct schedule *s) {
    if (t->goes >= s->soon && t->goes + s->tries < t->next) t->next = t->goes + s->tries;
}
