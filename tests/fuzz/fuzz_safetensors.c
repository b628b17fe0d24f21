/* safetensors_header_parse: the first eight bytes are the size of the data (little-endian), the rest is the
 * header. A header is refused with its path named, or its tensors tile the data exactly. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "engine/base/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t data_bytes = 0, covered = 0;
    struct safetensors_header *header = NULL;
    struct error err = {0};
    if (size < 8) {
        return 0;
    }
    for (int i = 7; i >= 0; i--) {
        data_bytes = data_bytes << 8 | data[i];
    }
    enum status status = safetensors_header_parse(&header, (const char *)data + 8, size - 8, data_bytes,
                                                  "folder/model.safetensors", &err);
    FUZZ_CHECK((status == STATUS_OK) == (header != NULL));
    if (status) {
        FUZZ_CHECK(status == STATUS_BAD_MODEL && strstr(err.message, "folder/model.safetensors"));
        return 0;
    }
    for (int64_t i = 0; i < header->n_tensors; i++) {
        const struct tensor *tensor = &header->tensors[i];
        uint64_t begin = (uint64_t)(uintptr_t)tensor->data;
        FUZZ_CHECK(begin <= data_bytes && tensor->n_bytes <= data_bytes - begin);
        FUZZ_CHECK(i == 0 || strcmp(header->tensors[i - 1].name, tensor->name) < 0);
        int64_t product = 1;
        for (int32_t d = 0; d < tensor->n_dims; d++) {
            FUZZ_CHECK(tensor->shape[d] >= 0);
            product = tensor->n_elements ? product * tensor->shape[d] : 0;
        }
        FUZZ_CHECK(product == tensor->n_elements);
        covered += tensor->n_bytes;
    }
    FUZZ_CHECK(covered == data_bytes);
    safetensors_header_close(header);
    return 0;
}
