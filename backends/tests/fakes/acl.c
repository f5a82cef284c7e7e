/* AscendCL: only the name of the chip. Configuration: soc (empty: the function gives NULL). */
#include "fake.h"

API const char *aclrtGetSocName(void) {
    const char *name = fake_text("soc");
    return name && *name ? name : NULL;
}
