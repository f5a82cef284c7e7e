/* Prints the layout of every struct of the header, as plugin.rs expects it from a C compiler. */
#include "weighbridge_executor.h"

#include <stddef.h>
#include <stdio.h>

#define LAYOUT(name, last) \
    printf(#name " %zu %zu\n", sizeof(weighbridge_##name), offsetof(weighbridge_##name, last))

int main(void) {
    LAYOUT(model, context_limit);
    LAYOUT(options, arguments);
    LAYOUT(capacity, device);
    LAYOUT(sample, forbidden_count);
    LAYOUT(row, sample);
    LAYOUT(batch, sample_count);
    LAYOUT(executor_api, close);
    return 0;
}
