/* CNDEV, third generation: one form of power and memory, and fields, of which 71 is energy. */
#define NAME "MLU590-M9"
#define NEWEST 6
#define BASE 200
#define TEMPERATURE_SIZE 148
#define FREQUENCY_SIZE 68
#include "cndev.h"

API int cndevGetDeviceHandleByIndex(int index, int *handle) {
    FAKE_STATUS();
    if (index < 0 || index >= count()) return 6;
    *handle = BASE + index;
    return 0;
}

API int cndevGetDevicePowerInfo(void *out, int device) {
    FAKE_STATUS();
    DEVICE(device);
    fake_fill(out, 84, __func__);
    fake_i32(out, 0, (int)(fake_watts(device - BASE) + 0.5));
    fake_i32(out, 4, 550);
    return 0;
}

API int cndevGetMemoryUsageV2(void *out, int device) {
    FAKE_STATUS();
    DEVICE(device);
    fake_fill(out, 176, __func__);
    fake_i64(out, 0, 98304);
    fake_i64(out, 8, 12345);
    return 0;
}

API int cndevDeviceGetFieldValues(int device, int n, void *out) {
    int32_t field;
    FAKE_STATUS();
    DEVICE(device);
    if (n != 1) return 5;
    memcpy(&field, out, 4);
    fake_fill(out, 48, __func__);
    fake_i32(out, 0, field);
    if (field != 71 || fake_number("no_energy", 0)) {
        fake_i32(out, 4, 10);
        return 0;
    }
    fake_i32(out, 4, 0);
    fake_i32(out, 16, 3);
    fake_i64(out, 8, (int64_t)(fake_joules(device - BASE) * 1000.0));
    return 0;
}
