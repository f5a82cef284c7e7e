/*
 * A whole plugin in two hundred lines: the smallest "model" that uses a paged cache as a real one does.
 *
 *   cc -std=c11 -O2 -shared -fPIC -I backends/include backends/plugins/tiny.c -o libtiny.so
 *   weighbridge run --target plugin:./libtiny.so --model ref-tiny
 *
 * The "key and value" of a token is the token itself, kept in its slot of the cache. The "logits" after
 * a token are a hash of everything in the sequence up to it, read back through the block table: a wrong
 * table, a block written twice or a prefix taken from the wrong sequence gives another answer.
 */
#include "weighbridge_executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct device {
    uint32_t vocabulary;
    weighbridge_capacity capacity;
    uint32_t block_tokens;
    uint32_t *cache; /* blocks * block_tokens tokens */
    char error[160];
} device;

static char open_error[160] = "";

static int32_t fail(device *self, const char *why, uint64_t value) {
    snprintf(self->error, sizeof self->error, "%s (%llu)", why, (unsigned long long)value);
    return WEIGHBRIDGE_ERROR;
}

static void *tiny_open(const weighbridge_model *model, const weighbridge_options *options) {
    if (model->size < sizeof *model || options->size < sizeof *options) {
        snprintf(open_error, sizeof open_error, "made for a newer weighbridge");
        return NULL;
    }
    device *self = calloc(1, sizeof *self);
    if (self == NULL) {
        snprintf(open_error, sizeof open_error, "no memory for the device");
        return NULL;
    }
    self->vocabulary = model->vocabulary;
    self->block_tokens = options->block_tokens;
    self->capacity.blocks = options->blocks;
    self->capacity.max_sequences = options->max_sequences;
    self->capacity.max_batch_tokens = options->max_batch_tokens;
    self->capacity.max_context = model->context_limit;
    self->capacity.device = "tiny example device";
    self->cache = calloc((size_t)options->blocks * options->block_tokens, sizeof *self->cache);
    if (self->cache == NULL) {
        snprintf(open_error, sizeof open_error, "no memory for %u blocks", options->blocks);
        free(self);
        return NULL;
    }
    return self;
}

static int32_t tiny_capacity(void *opened, weighbridge_capacity *capacity) {
    device *self = opened;
    uint64_t size = capacity->size;
    if (size < sizeof *capacity) {
        return fail(self, "the caller's capacity is too small", size);
    }
    *capacity = self->capacity;
    capacity->size = size;
    return WEIGHBRIDGE_OK;
}

/* The cache's slot of a position, or null if the block table does not cover it. */
static uint32_t *slot(device *self, const weighbridge_row *row, uint32_t position) {
    uint32_t entry = position / self->block_tokens;
    if (entry >= row->block_count || row->blocks[entry] >= self->capacity.blocks) {
        return NULL;
    }
    size_t first = (size_t)row->blocks[entry] * self->block_tokens;
    return self->cache + first + position % self->block_tokens;
}

static uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 29);
}

static int is_forbidden(const weighbridge_sample *sample, uint32_t token) {
    for (uint32_t i = 0; i < sample->forbidden_count; i++) {
        if (sample->forbidden[i] == token) {
            return 1;
        }
    }
    return 0;
}

/* Hashes the sequence up to its last token; greedy draws do not depend on the seed. */
static int32_t draw(device *self, const weighbridge_row *row, uint32_t *token) {
    const weighbridge_sample *sample = row->sample;
    uint64_t hash = 1;
    for (uint32_t position = 0; position < row->start + row->token_count; position++) {
        const uint32_t *held = slot(self, row, position);
        if (held == NULL) {
            return fail(self, "a block table is too short", row->sequence);
        }
        hash = mix(hash, *held);
    }
    if (sample->temperature > 0.0f) {
        hash = mix(mix(hash, sample->seed), sample->output_index);
    }
    *token = (uint32_t)(hash % self->vocabulary);
    for (uint32_t tried = 0; is_forbidden(sample, *token); tried++) {
        if (tried == self->vocabulary) {
            return fail(self, "every token is forbidden", row->sequence);
        }
        *token = (*token + 1) % self->vocabulary;
    }
    return WEIGHBRIDGE_OK;
}

static int32_t tiny_step(void *opened, const weighbridge_batch *batch, uint32_t *tokens,
                         uint32_t room, uint32_t *count) {
    device *self = opened;
    *count = 0;
    for (uint32_t r = 0; r < batch->row_count; r++) {
        const weighbridge_row *row = &batch->rows[r];
        for (uint32_t i = 0; i < row->token_count; i++) {
            uint32_t *place = slot(self, row, row->start + i);
            if (place == NULL) {
                return fail(self, "a block table is too short", row->sequence);
            }
            if (row->tokens[i] >= self->vocabulary) {
                return fail(self, "a token is not in the vocabulary", row->tokens[i]);
            }
            *place = row->tokens[i];
        }
    }
    for (uint32_t r = 0; r < batch->row_count; r++) {
        const weighbridge_row *row = &batch->rows[r];
        if (row->sample == NULL) {
            continue;
        }
        if (*count == room) {
            return fail(self, "there is no room for all tokens", room);
        }
        if (draw(self, row, &tokens[*count]) != WEIGHBRIDGE_OK) {
            return WEIGHBRIDGE_ERROR;
        }
        *count += 1;
    }
    return WEIGHBRIDGE_OK;
}

static const char *tiny_last_error(void *opened) {
    device *self = opened;
    return self == NULL ? open_error : self->error;
}

static void tiny_close(void *opened) {
    device *self = opened;
    free(self->cache);
    free(self);
}

const weighbridge_executor_api *weighbridge_executor(uint32_t abi) {
    static const weighbridge_executor_api api = {
        sizeof(weighbridge_executor_api), WEIGHBRIDGE_EXECUTOR_ABI, tiny_open,  tiny_capacity,
        tiny_step,                        tiny_last_error,          tiny_close,
    };
    return abi == WEIGHBRIDGE_EXECUTOR_ABI ? &api : NULL;
}
