/* A plugin that does one thing wrong, chosen with -DFAULT=…; built by plugin.rs beside it. */
#include "weighbridge_executor.h"

#include <string.h>
#include <unistd.h>

#define ABI 1
#define SHORT_TABLE 2
#define NULL_FUNCTION 3
#define UNKNOWN_VERSION 4
#define OPEN_FAILS 5
#define OPEN_FAILS_SILENTLY 6
#define CAPACITY_FAILS 7
#define CAPACITY_ZERO 8
#define CAPACITY_TOO_LARGE 9
#define STEP_FAILS 10
#define STEP_TOO_FEW 11
#define STEP_TOO_MANY 12
#define STEP_WRONG_TOKEN 13
#define STEP_HANGS 14
#define STEP_WRITES_NOTHING 15
#define STEP_WRITES_BEYOND 16

static int opened;

static void *fault_open(const weighbridge_model *model, const weighbridge_options *options) {
    (void)model, (void)options;
    return FAULT == OPEN_FAILS || FAULT == OPEN_FAILS_SILENTLY ? NULL : &opened;
}

static int32_t fault_capacity(void *device, weighbridge_capacity *capacity) {
    (void)device;
    if (FAULT == CAPACITY_FAILS) {
        return WEIGHBRIDGE_ERROR;
    }
    capacity->blocks = FAULT == CAPACITY_ZERO ? 0 : FAULT == CAPACITY_TOO_LARGE ? 1u << 30 : 16;
    capacity->max_sequences = 2;
    capacity->max_batch_tokens = 64;
    capacity->max_context = 128;
    return WEIGHBRIDGE_OK;
}

static int32_t fault_step(void *device, const weighbridge_batch *batch, uint32_t *tokens,
                          uint32_t room, uint32_t *count) {
    (void)device, (void)batch;
    if (FAULT == STEP_FAILS) {
        return WEIGHBRIDGE_ERROR;
    }
    while (FAULT == STEP_HANGS) {
        sleep(1000);
    }
    if (FAULT != STEP_WRITES_NOTHING) {
        memset(tokens, 0, (room + (FAULT == STEP_WRITES_BEYOND ? 3 : 0)) * sizeof *tokens);
    }
    *count = FAULT == STEP_TOO_FEW ? room - 1 : FAULT == STEP_TOO_MANY ? room + 1 : room;
    if (FAULT == STEP_WRONG_TOKEN) {
        tokens[0] = UINT32_MAX;
    }
    return WEIGHBRIDGE_OK;
}

static const char *fault_last_error(void *device) {
    (void)device;
    return FAULT == OPEN_FAILS_SILENTLY ? NULL : "the coolant boiled";
}

static void fault_close(void *device) { (void)device; }

const weighbridge_executor_api *weighbridge_executor(uint32_t abi) {
    static const weighbridge_executor_api api = {
        FAULT == SHORT_TABLE ? 16 : sizeof(weighbridge_executor_api),
        FAULT == ABI ? 7 : WEIGHBRIDGE_EXECUTOR_ABI,
        fault_open,
        fault_capacity,
        FAULT == NULL_FUNCTION ? NULL : fault_step,
        fault_last_error,
        fault_close,
    };
    return FAULT == UNKNOWN_VERSION || abi != WEIGHBRIDGE_EXECUTOR_ABI ? NULL : &api;
}
