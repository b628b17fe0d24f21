/* The one C++ file of the room: libsentencepiece's loader and encoder behind sentencepiece.h. Decoding is
 * done from the checked piece table in tokenizer.c, since a stream needs each token's bytes and not a whole
 * text. */
#include "tokenizer/sentencepiece.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct piece_encoder {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" enum status piece_encoder_open(struct piece_encoder **out, const void *bytes, size_t n_bytes,
                                          const char *path, struct error *err)
{
    struct piece_encoder *sp = nullptr;
    enum status status = STATUS_OK;
    *out = nullptr;
    try {
        sp = new struct piece_encoder;
        const auto loaded = sp->processor.LoadFromSerializedProto(
            absl::string_view(static_cast<const char *>(bytes), n_bytes));
        if (!loaded.ok()) {
            status = error_set(err, STATUS_BAD_MODEL, "%s: sentencepiece refuses it: %s", path,
                               loaded.error_message());
        }
    } catch (const std::bad_alloc &) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    } catch (const std::exception &e) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: sentencepiece refuses it: %s", path, e.what());
    } catch (...) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: sentencepiece refuses it", path);
    }
    if (status) {
        piece_encoder_close(sp);
        return status;
    }
    *out = sp;
    return STATUS_OK;
}

extern "C" void piece_encoder_close(struct piece_encoder *sp)
{
    delete sp;
}

extern "C" enum status piece_encoder_encode(const struct piece_encoder *sp, const char *text, size_t length,
                                            int32_t n_reserved, int32_t **ids, int32_t *n_ids,
                                            struct error *err)
{
    *ids = nullptr;
    *n_ids = 0;
    try {
        std::vector<int> encoded;
        const auto status = sp->processor.Encode(absl::string_view(text, length), &encoded);
        if (!status.ok()) {
            return error_set(err, STATUS_INVALID, "sentencepiece cannot encode the text: %s",
                             status.error_message());
        }
        const size_t n_places = encoded.size() + static_cast<size_t>(n_reserved);
        if (n_places > INT32_MAX / sizeof(int32_t)) {
            return error_set(err, STATUS_INVALID, "the text has too many tokens: %zu", encoded.size());
        }
        auto *copy = static_cast<int32_t *>(std::malloc(n_places ? n_places * sizeof(int32_t) : 1));
        if (!copy) {
            throw std::bad_alloc();
        }
        if (!encoded.empty()) {
            std::memcpy(copy + n_reserved, encoded.data(), encoded.size() * sizeof(int32_t));
        }
        *ids = copy;
        *n_ids = static_cast<int32_t>(encoded.size());
        return STATUS_OK;
    } catch (const std::bad_alloc &) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory while encoding %zu bytes of text", length);
    } catch (const std::exception &e) {
        return error_set(err, STATUS_INVALID, "sentencepiece cannot encode the text: %s", e.what());
    } catch (...) {
        return error_set(err, STATUS_INVALID, "sentencepiece cannot encode the text");
    }
}
