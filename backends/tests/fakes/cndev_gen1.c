/* CNDEV, first generation: no handles, versioned power and memory. */
#define NAME "MLU370-X8"
#define NEWEST 5
#define BASE 0
#define TEMPERATURE_SIZE 144
#define FREQUENCY_SIZE 16
#include "cndev.h"

API int cndevGetPowerInfo(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 28, __func__);
    fake_i32(out, 4, (int)(fake_watts(device) + 0.5));
    fake_i32(out, 8, 250);
    return 0;
}

API int cndevGetMemoryUsage(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 208, __func__);
    fake_i64(out, 8, 24576);
    fake_i64(out, 16, 1024);
    return 0;
}
