/* model_config_parse: a config is refused with its path named, or every number of it is in the range that the
 * engine relies on. */
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

#include "engine/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static double frequencies[MODEL_MAX_HEAD_DIM / 2];
    struct model_config c;
    struct error err = {0};
    enum status status = model_config_parse(&c, (const char *)data, size, "folder/config.json", &err);
    if (status) {
        FUZZ_CHECK(status == STATUS_BAD_MODEL && err.status == status);
        FUZZ_CHECK(strstr(err.message, "folder/config.json"));
        return 0;
    }
    FUZZ_CHECK(c.dim >= 1 && c.dim <= MODEL_MAX_DIM && c.ffn_dim >= 1 && c.ffn_dim <= MODEL_MAX_FFN_DIM);
    FUZZ_CHECK(c.n_layers >= 1 && c.n_layers <= MODEL_MAX_LAYERS && c.n_heads >= 1 &&
               c.n_heads <= MODEL_MAX_HEADS);
    FUZZ_CHECK(c.n_kv_heads >= 1 && c.n_heads % c.n_kv_heads == 0);
    FUZZ_CHECK(c.head_dim >= 2 && c.head_dim <= MODEL_MAX_HEAD_DIM && c.head_dim % 2 == 0);
    FUZZ_CHECK(c.vocab_size >= 1 && c.vocab_size <= MODEL_MAX_VOCAB);
    FUZZ_CHECK(c.max_positions >= 1 && c.max_positions <= MODEL_MAX_POSITIONS && c.sliding_window >= 0);
    FUZZ_CHECK(c.n_experts >= 0 && c.n_experts <= MODEL_MAX_EXPERTS && c.n_experts_used <= c.n_experts);
    FUZZ_CHECK((c.architecture == ARCH_MIXTRAL) == (c.n_experts_used > 0));
    FUZZ_CHECK(c.norm_eps > 0 && isfinite(c.norm_eps));
    FUZZ_CHECK(c.bos_id >= -1 && c.bos_id < c.vocab_size && c.n_eos >= 0 && c.n_eos <= MODEL_MAX_EOS);
    for (int32_t i = 0; i < c.n_eos; i++) {
        FUZZ_CHECK(c.eos_ids[i] >= 0 && c.eos_ids[i] < c.vocab_size);
    }
    model_config_rope_frequencies(&c, frequencies);
    for (int32_t i = 0; i < c.head_dim / 2; i++) {
        FUZZ_CHECK(isfinite(frequencies[i]) && frequencies[i] > 0 && frequencies[i] <= 1);
    }
    return 0;
}
