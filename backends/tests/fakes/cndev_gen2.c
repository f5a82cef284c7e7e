/* CNDEV, second generation: handles, the second forms of power and memory beside the first. */
#define NAME "MLU370-X8"
#define NEWEST 5
#define BASE 100
#define TEMPERATURE_SIZE 148
#define FREQUENCY_SIZE 68
#include "cndev.h"

API int cndevGetDeviceHandleByIndex(int index, int *handle) {
    FAKE_STATUS();
    if (index < 0 || index >= count()) return 6;
    *handle = BASE + index;
    return 0;
}

API int cndevGetPowerInfo(void *out, int device) {
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 32, __func__);
    fake_i32(out, 4, 1); /* not to be asked */
    return 0;
}

API int cndevGetPowerInfoV2(void *out, int device) {
    FAKE_STATUS();
    DEVICE(device);
    fake_fill(out, 84, __func__);
    fake_i32(out, 0, (int)(fake_watts(device - BASE) + 0.5));
    fake_i32(out, 4, 250);
    return 0;
}

API int cndevGetMemoryUsage(void *out, int device) {
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 216, __func__);
    fake_i64(out, 8, 1);
    fake_i64(out, 16, 1);
    return 0;
}

API int cndevGetMemoryUsageV2(void *out, int device) {
    FAKE_STATUS();
    DEVICE(device);
    fake_fill(out, 176, __func__);
    fake_i64(out, 0, 24576);
    fake_i64(out, 8, 2048);
    return 0;
}
