/* DCMI. Configuration: cards=0 2 5 · npus (per card) · mcu (a microcontroller at the last place) ·
 * part=910b|310p|a3 · silent (this die of an A3 has no power) · util · hbm_kb (only the older function) · old=-8255 for the functions of
 * before the 950 · v2 (0: without its functions' success). */
#include "fake.h"

static int is_part(const char *name) {
    const char *part = fake_text("part");
    return !strcmp(part ? part : "910b", name);
}
static int npus(void) { return (int)fake_number("npus", is_part("910b") ? 1 : 2); }
static int has_mcu(void) { return (int)fake_number("mcu", 1); }
/* Status of the functions that a 950 does not answer. */
static int old_status(void) { return (int)fake_number("old", 0); }
#define OLD()                                    \
    do {                                         \
        if (old_status()) return old_status();   \
    } while (0)

static int cards(int *list) {
    const char *text = fake_text("cards");
    int count = 0;
    if (!text) text = "0";
    while (*text && count < 64) {
        char *end;
        list[count] = (int)strtol(text, &end, 10);
        if (end == text) break;
        count++;
        text = end;
    }
    return count;
}

static int ordinal(int card) {
    int list[64], count = cards(list);
    for (int i = 0; i < count; i++)
        if (list[i] == card) return i;
    return -1;
}

static int known(int card, int device) {
    return ordinal(card) >= 0 && device >= 0 && device < npus() + has_mcu();
}
#define KNOWN(card, device)                              \
    do {                                                 \
        if (!known(card, device)) return -8007;          \
        if (device >= npus()) return -8255; /* MCU */    \
    } while (0)

API int dcmi_init(void) { OLD(); FAKE_STATUS(); return 0; }

API int dcmi_get_card_list(int *count, int *list, int length) {
    int all[64], n;
    OLD();
    FAKE_STATUS();
    n = cards(all);
    if (n > length) return -8001;
    memcpy(list, all, 4 * (size_t)n);
    *count = n;
    return 0;
}

API int dcmi_get_device_num_in_card(int card, int *count) {
    OLD();
    FAKE_STATUS();
    if (ordinal(card) < 0) return -8007;
    fake_fill(count, 4, __func__);
    *count = npus() + has_mcu();
    return 0;
}

API int dcmi_get_device_type(int card, int device, int *type) {
    OLD();
    FAKE_STATUS();
    if (!known(card, device)) return -8007;
    fake_fill(type, 4, __func__);
    *type = device < npus() ? 0 : 1;
    return 0;
}

API int dcmi_get_device_logic_id(int *logic, int card, int device) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    fake_fill(logic, 4, __func__);
    *logic = ordinal(card) * npus() + device;
    return 0;
}

API int dcmi_get_device_chip_info_v2(int card, int device, void *out) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    fake_fill(out, 132, __func__);
    strcpy((char *)out, "Ascend");
    strcpy((char *)out + 32, "910");
    strcpy((char *)out + 64, "V1");
    fake_i32(out, 96, is_part("310p") ? 8 : 20);
    strcpy((char *)out + 100, is_part("310p") ? "310P3" : is_part("a3") ? "Ascend910" : "910B3");
    return 0;
}

API int dcmi_get_device_pcie_info_v2(int card, int device, void *out) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    fake_fill(out, 64, __func__);
    fake_i32(out, 0, 0x19e5);
    fake_i32(out, 8, is_part("a3") ? 0xd803 : is_part("310p") ? 0xd500 : 0xd802);
    fake_i32(out, 16, 0);
    fake_i32(out, 20, 0xc1 + ordinal(card));
    fake_i32(out, 24, 0);
    fake_i32(out, 28, device);
    return 0;
}

API int dcmi_get_device_power_info(int card, int device, int *power) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (is_part("310p") || device == fake_number("silent", -1)) return -8255;
    fake_fill(power, 4, __func__);
    *power = (int)(fake_watts(ordinal(card)) * 10.0 + 0.5);
    return 0;
}

API int dcmi_mcu_get_power_info(int card, int *power) {
    OLD();
    FAKE_STATUS();
    if (ordinal(card) < 0) return -8007;
    if (!is_part("310p")) return -8255;
    fake_fill(power, 4, __func__);
    *power = (int)(fake_watts(ordinal(card)) * 10.0 + 0.5);
    return 0;
}

API int dcmi_get_device_temperature(int card, int device, int *celsius) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    fake_fill(celsius, 4, __func__);
    *celsius = 32;
    return 0;
}

API int dcmi_get_device_health(int card, int device, unsigned *health) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    fake_fill(health, 4, __func__);
    *health = 0;
    return 0;
}

API int dcmi_get_device_frequency(int card, int device, int type, unsigned *mhz) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (type != 7) return -8001;
    fake_fill(mhz, 4, __func__);
    *mhz = 1800;
    return 0;
}

API int dcmi_get_device_utilization_rate(int card, int device, int type, unsigned *percent) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (type != 2) return -8001;
    fake_fill(percent, 4, __func__);
    *percent = (unsigned)fake_number("util", 37);
    return 0;
}

API int dcmi_get_device_hbm_info(int card, int device, void *out) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (is_part("310p") || fake_number("hbm_kb", 0)) return -8255;
    fake_fill(out, 32, __func__);
    fake_i64(out, 0, 65536);
    fake_i32(out, 8, 1600);
    fake_i64(out, 16, 3430);
    return 0;
}

API int dcmi_get_hbm_info(int card, int device, void *out) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (!fake_number("hbm_kb", 0)) return -8255;
    fake_fill(out, 32, __func__);
    fake_i64(out, 0, 65536LL * 1024);
    fake_i64(out, 16, 3430LL * 1024);
    return 0;
}

API int dcmi_get_device_memory_info_v3(int card, int device, void *out) {
    OLD();
    FAKE_STATUS();
    KNOWN(card, device);
    if (!is_part("310p")) return -8255;
    fake_fill(out, 112, __func__);
    fake_i64(out, 0, 44280);
    fake_i64(out, 8, 43693);
    return 0;
}

API int dcmi_get_driver_version(char *text, unsigned length) {
    OLD();
    FAKE_STATUS();
    snprintf(text, length, "25.5.1");
    return 0;
}

API int dcmi_get_dcmi_version(char *text, int length) {
    OLD();
    FAKE_STATUS();
    snprintf(text, (size_t)length, "1.0.0");
    return 0;
}

/* The functions of the 950: one number for a device; the list before the count. */
static int v2(void) { return old_status() ? 0 : -8255; }

API int dcmiv2_init(void) { return v2(); }

API int dcmiv2_get_device_list(int *list, int *count, int length) {
    int all[64], n;
    if (v2()) return v2();
    n = cards(all);
    if (n > length) return -8001;
    memcpy(list, all, 4 * (size_t)n);
    *count = n;
    return 0;
}

API int dcmiv2_get_device_power_info(int device, int *power) {
    if (v2()) return v2();
    fake_fill(power, 4, __func__);
    *power = (int)(fake_watts(ordinal(device)) * 10.0 + 0.5);
    return 0;
}

API int dcmiv2_get_device_utilization_rate(int device, int type, unsigned *percent) {
    if (v2() || ordinal(device) < 0 || type != 2) return -8001;
    fake_fill(percent, 4, __func__);
    *percent = 12;
    return 0;
}

API int dcmiv2_get_device_temperature(int device, int *celsius) {
    if (v2() || ordinal(device) < 0) return -8001;
    fake_fill(celsius, 4, __func__);
    *celsius = 41;
    return 0;
}

API int dcmiv2_get_device_hbm_info(int device, void *out) {
    if (v2() || ordinal(device) < 0) return -8001;
    fake_fill(out, 32, __func__);
    fake_i64(out, 0, 131072);
    fake_i64(out, 16, 4096);
    return 0;
}
