/* What the fake libraries share. Written from the interfaces' documentation; nothing is copied from
 * a vendor's headers.
 *
 * A fake reads its behaviour from `<its own path>.conf` (lines of `key=value`), so that copies of it
 * in one process differ. Structures are filled with 0xEE first: a reader that takes a field from a
 * wrong place gets nonsense. memset and memcpy are called, not inlined, so that AddressSanitizer in
 * the process sees them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))

static char *fake_conf(void) {
    static char text[4096];
    static int loaded;
    if (!loaded) {
        Dl_info info;
        char path[4096];
        loaded = 1;
        if (dladdr((void *)&fake_conf, &info) && info.dli_fname) {
            snprintf(path, sizeof path, "%s.conf", info.dli_fname);
            FILE *file = fopen(path, "r");
            if (file) {
                size_t n = fread(text, 1, sizeof text - 1, file);
                text[n] = 0;
                fclose(file);
            }
        }
    }
    return text;
}

/* The value of a key, or NULL. */
static const char *fake_text(const char *key) {
    static char value[16][256];
    static int next;
    size_t length = strlen(key);
    for (char *line = fake_conf(); line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (!strncmp(line, key, length) && line[length] == '=') {
            char *out = value[next++ % 16];
            size_t n = strcspn(line + length + 1, "\n");
            if (n > 255) n = 255;
            memcpy(out, line + length + 1, n);
            out[n] = 0;
            return out;
        }
    }
    return NULL;
}

static long fake_number(const char *key, long otherwise) {
    const char *text = fake_text(key);
    return text ? strtol(text, NULL, 0) : otherwise;
}

static double fake_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* Power as a function of the system's monotonic clock: a triangle between 200 and 400 W with a
 * period of 37 s (so that whole watts, ten times a second, are rounded up as often as down); device d
 * draws 10 W more than device d - 1. */
static double fake_watts(int device) {
    double t = fake_seconds() / 37.0;
    double phase = t - (double)(long long)t;
    double up = phase < 0.5 ? 2 * phase : 2 - 2 * phase;
    return fake_number("constant_w", 0) ? fake_number("constant_w", 0) : 200.0 + 200.0 * up + 10.0 * device;
}

/* Its integral from instant 0, joules. */
static double fake_joules(int device) {
    double t = fake_seconds() / 37.0;
    double whole = (double)(long long)t, phase = t - whole;
    double part = phase < 0.5 ? phase * phase : 2 * phase - phase * phase - 0.5;
    double up = whole * 0.5 + part;
    if (fake_number("constant_w", 0)) return fake_number("constant_w", 0) * fake_seconds();
    return 37.0 * (200.0 * t + 200.0 * up + 10.0 * device * t);
}

/* Begins a structure of `size` bytes; with `overrun=NAME` in the configuration it writes one byte
 * more, or `overrun_by` bytes. */
static void fake_fill(void *out, size_t size, const char *function) {
    const char *overrun = fake_text("overrun");
    memset(out, 0xEE, size);
    if (overrun && !strcmp(overrun, function)) memset(out, 0xEE, size + (size_t)fake_number("overrun_by", 1));
}

static void fake_i32(void *out, size_t at, int32_t value) { memcpy((char *)out + at, &value, 4); }
static void fake_i64(void *out, size_t at, int64_t value) { memcpy((char *)out + at, &value, 8); }

/* What a function is told to return: `ret:NAME=STATUS`, else `ret=STATUS`, else 0. */
static int fake_status(const char *function) {
    char key[128];
    snprintf(key, sizeof key, "ret:%s", function);
    return (int)fake_number(key, fake_number("ret", 0));
}

#define FAKE_STATUS()                               \
    do {                                            \
        int fake_status_ = fake_status(__func__);   \
        if (fake_status_) return fake_status_;      \
    } while (0)
