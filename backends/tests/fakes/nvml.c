/* NVML. Configuration: count · no_energy · regress (the counter goes back after this many calls) ·
 * lost (this GPU falls off the bus), lost_after (so many looks for a GPU before it does). */
#include "fake.h"

enum { GPU = 0x1000 };

static int count(void) { return (int)fake_number("count", 2); }
static int index_of(void *device) { return (int)((uintptr_t)device - GPU); }

API int nvmlInit_v2(void) { FAKE_STATUS(); return 0; }
API int nvmlInitWithFlags(unsigned flags) { (void)flags; FAKE_STATUS(); return 0; }
API int nvmlShutdown(void) { return 0; }
API const char *nvmlErrorString(int status) { (void)status; return "an error of the fake"; }

API int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "580.105.08");
    return 0;
}

API int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)count(); return 0; }

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    static long looks;
    if ((int)index >= count()) return 2;
    if ((int)index == fake_number("lost", -1) && ++looks > fake_number("lost_after", 0)) return 15;
    *device = (void *)(uintptr_t)(GPU + index);
    return 0;
}

API int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    (void)device;
    snprintf(text, length, "NVIDIA H20");
    return 0;
}

API int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    snprintf(text, length, "GPU-%d", index_of(device));
    return 0;
}

API int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    FAKE_STATUS();
    *milliwatts = (unsigned)(fake_watts(index_of(device)) * 1000.0);
    return 0;
}

API int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    (void)device;
    *milliwatts = 500000;
    return 0;
}

API int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    static long calls;
    if (fake_number("no_energy", 0)) return 3;
    *millijoules = (unsigned long long)(fake_joules(index_of(device)) * 1000.0);
    if (fake_number("regress", 0) && ++calls > fake_number("regress", 0)) *millijoules = 5;
    return 0;
}

API int nvmlDeviceGetUtilizationRates(void *device, unsigned *out) {
    (void)device;
    out[0] = 37;
    out[1] = 12;
    return 0;
}

API int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    (void)device;
    (void)sensor;
    *celsius = 31;
    return 0;
}

API int nvmlDeviceGetClockInfo(void *device, int clock, unsigned *mhz) {
    (void)device;
    (void)clock;
    *mhz = 1980;
    return 0;
}

API int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    (void)device;
    *reasons = (unsigned long long)fake_number("throttle", 1);
    return 0;
}

API int nvmlDeviceGetMemoryInfo_v2(void *device, void *out) {
    (void)device;
    fake_i64(out, 8, 97871LL << 20);
    fake_i64(out, 16, 1LL << 20);
    fake_i64(out, 24, 1LL << 20);
    fake_i64(out, 32, 1024LL << 20);
    return 0;
}
