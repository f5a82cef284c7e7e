/*
 * The interface through which a device runs the reference model under weighbridge's scheduler.
 *
 * A plugin is a shared library that exports one function, weighbridge_executor(). weighbridge loads it
 * with `--target plugin:/path/lib.so`, opens it once, asks for its capacity, and then calls step() from
 * one thread, one step at a time, until it closes it.
 *
 * The scheduler owns the cache's bookkeeping. Keys and values live in `blocks` blocks of
 * `block_tokens` tokens each, numbered from 0. A row's block table lists its blocks in order: the key
 * and value of the token at position p belong in block table[p / block_tokens], slot
 * p % block_tokens. Blocks are shared between sequences with equal beginnings and are only written
 * once; nothing else of a sequence may be kept between steps.
 *
 * Rules: every struct begins with its size in bytes as its maker knows it, so that later versions can
 * grow at the end; pointers are valid until the call returns; strings are UTF-8, end with a zero byte,
 * and belong to the plugin until the next call. A plugin must not throw, exit or block signals. A
 * function that fails returns WEIGHBRIDGE_ERROR, and last_error() then says why.
 */
#ifndef WEIGHBRIDGE_EXECUTOR_H
#define WEIGHBRIDGE_EXECUTOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when an existing field or function changes its meaning. */
#define WEIGHBRIDGE_EXECUTOR_ABI 1

#define WEIGHBRIDGE_OK 0
#define WEIGHBRIDGE_ERROR (-1)

/* The model to run: llama architecture. */
typedef struct weighbridge_model {
    uint64_t size;
    const char *name;          /* as the user calls it */
    const char *gguf_path;     /* null for models that weighbridge makes in memory (ref-135m, ref-tiny) */
    uint32_t vocabulary;       /* tokens are 0 .. vocabulary - 1 */
    uint32_t layers;
    uint32_t hidden;
    uint32_t feed_forward;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t context_limit;    /* most tokens of a sequence */
} weighbridge_model;

/* What the user asks for; a device may hold less. */
typedef struct weighbridge_options {
    uint64_t size;
    uint64_t kv_memory_bytes;  /* for keys and values, at two bytes a value */
    uint32_t block_tokens;     /* fixed */
    uint32_t blocks;           /* that kv_memory_bytes hold */
    uint32_t max_sequences;    /* in one step */
    uint32_t max_batch_tokens; /* in one step */
    const char *arguments;     /* after a '?' in the target: plugin:/path/lib.so?device=3; else "" */
} weighbridge_options;

/* What the device can hold: at most what was asked for, and at least 1 of each. */
typedef struct weighbridge_capacity {
    uint64_t size;
    uint32_t blocks;
    uint32_t max_sequences;
    uint32_t max_batch_tokens;
    uint32_t max_context;
    const char *device;        /* name of the device in words; price sheets find it by that */
} weighbridge_capacity;

/* How the next token of a row is drawn. */
typedef struct weighbridge_sample {
    float temperature;         /* 0: the likeliest token, the lowest id among equals */
    uint32_t top_k;            /* 0: all */
    float top_p;               /* 1: all */
    uint64_t seed;             /* a draw is a function of seed and output_index alone */
    uint64_t output_index;     /* tokens that the request has put out already */
    const uint32_t *forbidden; /* tokens that may not be drawn */
    uint32_t forbidden_count;
} weighbridge_sample;

/* One sequence's share of a step. */
typedef struct weighbridge_row {
    uint64_t sequence;         /* its number, for logs */
    const uint32_t *tokens;    /* to be computed now */
    uint32_t token_count;
    uint32_t start;            /* tokens of the sequence that are in the cache already */
    const uint32_t *blocks;    /* its block table; covers start + token_count */
    uint32_t block_count;
    const weighbridge_sample *sample; /* null: no token is drawn from this row */
} weighbridge_row;

typedef struct weighbridge_batch {
    uint64_t size;
    const weighbridge_row *rows;
    uint32_t row_count;
    uint32_t sample_count;     /* rows whose sample is not null */
} weighbridge_batch;

/* The functions of a plugin; none may be null. */
typedef struct weighbridge_executor_api {
    uint64_t size;
    uint32_t abi;              /* WEIGHBRIDGE_EXECUTOR_ABI */
    /* A device with the model on it, or null. */
    void *(*open)(const weighbridge_model *model, const weighbridge_options *options);
    /* Fills *capacity, whose size is set. */
    int32_t (*capacity)(void *device, weighbridge_capacity *capacity);
    /*
     * Runs one step and waits for it: when it returns, the device has done all of it, since that is the
     * instant at which its tokens count. Writes the drawn token of each row with a sample, in the order
     * of the rows, to tokens[0 .. room - 1], and their number to *count.
     */
    int32_t (*step)(void *device, const weighbridge_batch *batch, uint32_t *tokens, uint32_t room,
                    uint32_t *count);
    /* Why the last call failed; device is null after a failed open. */
    const char *(*last_error)(void *device);
    /* Called once, last. */
    void (*close)(void *device);
} weighbridge_executor_api;

/* The functions for an ABI version that weighbridge asks for, or null if the plugin does not have it. */
#ifdef _WIN32
__declspec(dllexport)
#endif
const weighbridge_executor_api *weighbridge_executor(uint32_t abi);

#ifdef __cplusplus
}
#endif

#endif
