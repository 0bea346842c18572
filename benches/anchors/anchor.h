/* What every anchor program does alike: arguments, data, timing, checking, the row.
 *
 * An anchor program is one peer. It is given one operation, a blocking out-of-place all-reduce
 * (f32, sum), and measures it the way the others do, so that only the operation differs:
 *
 *   - poisoned output, first calls untimed, then as many timed calls as fit into --seconds;
 *   - all peers agree on the number of calls by an all-reduce of their own estimates;
 *   - at the end the output is poisoned again, one more call made, and every element compared.
 *
 * Each peer prints one JSON row on standard output; `cargo xtask bench` folds the rows of a cell
 * into one. Valid as C11 and as C++17. Linux only.
 */
#ifndef PCCL_BENCHES_ANCHOR_H
#define PCCL_BENCHES_ANCHOR_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ANCHOR_MIN_ITERS 3
#define ANCHOR_MAX_ITERS 10000
#define ANCHOR_MAX_WARMUPS 100
#define ANCHOR_WARMUP_SECONDS 0.1
#define ANCHOR_AGREE_COUNT 1024
/* Values are small integers below this, so that any order of additions gives the same sum. */
#define ANCHOR_PERIOD 1021

struct anchor {
    const char *algorithm;
    unsigned rank;
    unsigned peers;
    size_t bytes;
    double seconds;
};

/* One blocking all-reduce of `count` floats. Returns 0, or prints why and returns non-zero. */
typedef int (*anchor_op)(void *context, const float *input, float *output, size_t count);

static void anchor_die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* The value after `name` on the command line; its absence ends the program. */
static const char *anchor_text(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return argv[i + 1];
        }
    }
    anchor_die(name, "this option is required (start this program through `cargo xtask bench`)");
    return NULL;
}

static double anchor_number(int argc, char **argv, const char *name) {
    const char *text = anchor_text(argc, argv, name);
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || value < 0) {
        anchor_die(name, "expected a number that is not negative");
    }
    return value;
}

/* A peer must not outlive the benchmark: it dies with its parent, and after --timeout-s anyway. */
static void anchor_guard(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)anchor_number(argc, argv, "--timeout-s"));
}

static void anchor_parse(struct anchor *a, int argc, char **argv, const char *algorithm) {
    anchor_guard(argc, argv);
    a->algorithm = algorithm;
    a->bytes = (size_t)anchor_number(argc, argv, "--bytes");
    a->seconds = anchor_number(argc, argv, "--seconds");
    if (a->bytes == 0 || a->bytes % sizeof(float) != 0) {
        anchor_die("--bytes", "expected a positive multiple of 4");
    }
}

static double anchor_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static float *anchor_floats(size_t count) {
    float *p = (float *)aligned_alloc(4096, (count * sizeof(float) + 4095) / 4096 * 4096);
    if (p == NULL) {
        anchor_die("out of memory", "a smaller --bytes or fewer --peers will fit");
    }
    return p;
}

static void anchor_fill(float *data, size_t count, unsigned rank) {
    for (size_t i = 0; i < count; i++) {
        data[i] = (float)(i % ANCHOR_PERIOD + rank);
    }
}

/* All bits set: not a number, never equal to an expected sum. */
static void anchor_poison(float *data, size_t count) { memset(data, 0xff, count * sizeof(float)); }

/* How many elements are not the sum over all peers of what anchor_fill() wrote. */
static size_t anchor_wrong(const float *sums, size_t count, unsigned peers) {
    float ranks = (float)(peers * (peers - 1) / 2);
    size_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        float expected = (float)(i % ANCHOR_PERIOD) * (float)peers + ranks;
        wrong += sums[i] != expected;
    }
    return wrong;
}

/* The peers' mean of `seconds`, the same number on each: whole microseconds, summed exactly. */
static double anchor_agree(const struct anchor *a, anchor_op op, void *context, double seconds) {
    static float input[ANCHOR_AGREE_COUNT], output[ANCHOR_AGREE_COUNT];
    double most = (double)(1u << 24) / a->peers - 1;
    double micros = seconds * 1e6;
    input[0] = (float)(uint64_t)(micros < 1 ? 1 : micros > most ? most : micros);
    if (op(context, input, output, ANCHOR_AGREE_COUNT) != 0) {
        exit(1);
    }
    return (double)output[0] / a->peers * 1e-6;
}

static unsigned anchor_fit(double budget, double each, unsigned least, unsigned most) {
    double n = budget / each;
    return n < least ? least : n > most ? most : (unsigned)n;
}

static int anchor_compare(const void *left, const void *right) {
    double l = *(const double *)left, r = *(const double *)right;
    return (l > r) - (l < r);
}

static double anchor_median(const double *sorted, unsigned n) {
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* Nearest rank: the smallest time that at least 99 % of the calls did not exceed. */
static double anchor_p99(const double *sorted, unsigned n) { return sorted[(n * 99 + 99) / 100 - 1]; }

static void anchor_row(const struct anchor *a, const double *sorted, unsigned n, size_t wrong) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double median = anchor_median(sorted, n);
    double algbw = (double)a->bytes / median * 1e-9;
    char row[1024];
    int length = snprintf(
        row, sizeof row,
        "{\"peers\":%u,\"rank\":%u,\"bytes\":%zu,\"dtype\":\"f32\",\"op\":\"sum\",\"algorithm\":\"%s\","
        "\"iters\":%u,\"median_s\":%.9g,\"p99_s\":%.9g,\"algbw_gbs\":%.6g,\"busbw_gbs\":%.6g,"
        "\"wrong\":%zu,\"max_rss_bytes\":%llu}\n",
        a->peers, a->rank, a->bytes, a->algorithm, n, median, anchor_p99(sorted, n), algbw,
        algbw * 2 * (a->peers - 1) / a->peers, wrong, (unsigned long long)usage.ru_maxrss * 1024);
    /* One write, so that rows of several peers never mix on a shared pipe. */
    if (write(STDOUT_FILENO, row, (size_t)length) != length) {
        anchor_die("standard output", strerror(errno));
    }
}

/* `n` calls, each timed into `times` where that is not NULL. Returns the mean seconds per call. */
static double anchor_calls(anchor_op op, void *context, const float *input, float *output, size_t count,
                           unsigned n, double *times) {
    double begin = anchor_now();
    double last = begin;
    for (unsigned i = 0; i < n; i++) {
        if (op(context, input, output, count) != 0) {
            exit(1);
        }
        double now = anchor_now();
        if (times != NULL) {
            times[i] = now - last;
        }
        last = now;
    }
    return (last - begin) / n;
}

/* Measures `op` and prints this peer's row. */
static void anchor_measure(const struct anchor *a, anchor_op op, void *context) {
    size_t count = a->bytes / sizeof(float);
    float *input = anchor_floats(count);
    float *output = anchor_floats(count);
    anchor_fill(input, count, a->rank);
    anchor_poison(output, count);

    anchor_calls(op, context, input, output, count, 1, NULL);
    double each = anchor_calls(op, context, input, output, count, 1, NULL);
    each = anchor_agree(a, op, context, each);
    unsigned warmups = anchor_fit(ANCHOR_WARMUP_SECONDS, each, 1, ANCHOR_MAX_WARMUPS);
    each = anchor_calls(op, context, input, output, count, warmups, NULL);
    each = anchor_agree(a, op, context, each);

    unsigned iters = anchor_fit(a->seconds, each, ANCHOR_MIN_ITERS, ANCHOR_MAX_ITERS);
    double *times = (double *)calloc(iters, sizeof *times);
    if (times == NULL) {
        anchor_die("out of memory", "no room for the times");
    }
    anchor_calls(op, context, input, output, count, iters, times);
    size_t wrong = anchor_wrong(output, count, a->peers);
    anchor_poison(output, count);
    anchor_calls(op, context, input, output, count, 1, NULL);
    wrong += anchor_wrong(output, count, a->peers);

    qsort(times, iters, sizeof *times, anchor_compare);
    anchor_row(a, times, iters, wrong);
    free(times);
    free(output);
    free(input);
}

#endif
