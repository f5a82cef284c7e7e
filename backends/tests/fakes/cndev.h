/* What the three generations of CNDEV share. Configuration: count · version (the stamp that is
 * accepted; others get status 3) · no_energy. */
#include "fake.h"

static int count(void) { return (int)fake_number("count", 2); }

/* A structure that begins with its version. */
static int stamp(const void *in, int newest) {
    int32_t version;
    memcpy(&version, in, 4);
    return version == fake_number("version", newest) ? 0 : 3;
}
#define STAMP(in)                                          \
    do {                                                   \
        if (stamp(in, NEWEST)) return 3;                   \
    } while (0)

static int is_device(int device) { return device >= BASE && device < BASE + count(); }
#define DEVICE(device)                         \
    do {                                       \
        if (!is_device(device)) return 6;      \
    } while (0)

API int cndevInit(int reserved) {
    FAKE_STATUS();
    return reserved ? 5 : 0;
}

API int cndevGetDeviceCount(void *out) {
    FAKE_STATUS();
    STAMP(out);
    fake_i32(out, 4, count());
    return 0;
}

API const char *cndevGetCardNameStringByDevId(int device) {
    return is_device(device) ? NAME : NULL;
}

API int cndevGetUUID(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 56, __func__);
    memcpy((char *)out + 4, "41fd5e1a-1111-2222-3333-444455556666", 37);
    return 0;
}

API int cndevGetDeviceUtilizationInfo(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, 328, __func__);
    fake_i32(out, 4, (int)fake_number("util", 66));
    return 0;
}

API int cndevGetTemperatureInfo(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, TEMPERATURE_SIZE, __func__);
    fake_i32(out, 4, 40);
    fake_i32(out, 120, 64);
    return 0;
}

API int cndevGetFrequencyInfo(void *out, int device) {
    FAKE_STATUS();
    STAMP(out);
    DEVICE(device);
    fake_fill(out, FREQUENCY_SIZE, __func__);
    fake_i32(out, 4, 1300);
    return 0;
}
