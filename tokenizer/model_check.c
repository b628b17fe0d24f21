/* Walks the protobuf; see model_check.h. The double-array of the normalizer is checked in charsmap_check.c.
 * What the checks guard against is libsentencepiece 0.1.97 (src/model_interface.cc, normalizer.cc, darts.h).
 */
#include "tokenizer/model_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/charsmap_check.h"
#include "tokenizer/utf8.h"

enum { MAX_SCORE = 1000000000, MAX_NESTED_USER_SYMBOLS = 64 };

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct span {
    const uint8_t *at, *end;
};

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;    /* of WIRE_VARINT, WIRE_FIXED32 (bits), WIRE_FIXED64 (bits) */
    struct span bytes; /* of WIRE_BYTES */
};

struct walk {
    struct model_check *check;
    const char *path;
    struct error *err;
    int64_t n_slots; /* places of check->pieces */
    bool seen_trainer, seen_normalizer, seen_denormalizer, seen_self_test;
    struct span bos_name, eos_name;
};

static enum status bad(const struct walk *w, const char *what)
{
    return error_set(w->err, STATUS_BAD_MODEL, "%s: not a usable sentencepiece model: %s", w->path, what);
}

static enum status bad_piece(const struct walk *w, int64_t id, const char *what)
{
    return error_set(w->err, STATUS_BAD_MODEL, "%s: not a usable sentencepiece model: piece %lld %s", w->path,
                     (long long)id, what);
}

static enum status bad_field(const struct walk *w, const char *message, uint32_t number, const char *what)
{
    return error_set(w->err, STATUS_BAD_MODEL, "%s: not a usable sentencepiece model: %s field %u %s",
                     w->path, message, number, what);
}

static bool varint_read(struct span *s, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 70 && s->at < s->end; shift += 7) {
        uint8_t byte = *s->at++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return true;
        }
    }
    return false;
}

static bool fixed_read(struct span *s, uint64_t *value, int n_bytes)
{
    if (s->end - s->at < n_bytes) {
        return false;
    }
    *value = 0;
    for (int i = 0; i < n_bytes; i++) {
        *value |= (uint64_t)s->at[i] << (8 * i);
    }
    s->at += n_bytes;
    return true;
}

/* The next field of a message. Groups (wire types 3 and 4) are not used by this format and refused. */
static enum status field_read(const struct walk *w, struct span *s, const char *message, struct field *field)
{
    uint64_t tag;
    if (!varint_read(s, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return error_set(w->err, STATUS_BAD_MODEL, "%s: not a sentencepiece model: broken field tag in %s",
                         w->path, message);
    }
    field->number = (uint32_t)(tag >> 3);
    field->wire = (enum wire)(tag & 7);
    field->value = 0;
    field->bytes = (struct span){NULL, NULL};
    bool ok = false;
    switch (field->wire) {
    case WIRE_VARINT:
        ok = varint_read(s, &field->value);
        break;
    case WIRE_FIXED32:
        ok = fixed_read(s, &field->value, 4);
        break;
    case WIRE_FIXED64:
        ok = fixed_read(s, &field->value, 8);
        break;
    case WIRE_BYTES: {
        uint64_t length;
        if (varint_read(s, &length) && length <= (uint64_t)(s->end - s->at)) {
            field->bytes = (struct span){s->at, s->at + length};
            s->at += length;
            ok = true;
        }
        break;
    }
    default:
        break;
    }
    return ok ? STATUS_OK : bad_field(w, message, field->number, "is cut off or of a wrong wire type");
}

/* ---- pieces ---- */

/* "<0x0A>" as the library spells it: two capital hexadecimal digits. */
static bool byte_piece_read(const struct model_piece *piece, uint8_t *byte)
{
    static const char digits[] = "0123456789ABCDEF";
    if (piece->n_bytes != 6 || memcmp(piece->text, "<0x", 3) || piece->text[5] != '>') {
        return false;
    }
    const char *high = memchr(digits, piece->text[3], 16);
    const char *low = memchr(digits, piece->text[4], 16);
    if (!high || !low) {
        return false;
    }
    *byte = (uint8_t)((high - digits) << 4 | (low - digits));
    return true;
}

static enum status piece_walk(struct walk *w, struct span s)
{
    struct model_check *check = w->check;
    int64_t id = check->n_pieces;
    struct model_piece piece = {.type = PIECE_NORMAL};
    bool seen[4] = {false};
    while (s.at < s.end) {
        struct field field;
        enum status status = field_read(w, &s, "SentencePiece", &field);
        if (status) {
            return status;
        }
        if (field.number <= 3) {
            static const enum wire wires[4] = {WIRE_VARINT, WIRE_BYTES, WIRE_FIXED32, WIRE_VARINT};
            if (field.wire != wires[field.number]) {
                return bad_piece(w, id, "has a field of a wrong type");
            }
            if (seen[field.number]) {
                return bad_piece(w, id, "has a field twice");
            }
            seen[field.number] = true;
        }
        if (field.number == 1) {
            size_t n_bytes = (size_t)(field.bytes.end - field.bytes.at);
            if (n_bytes == 0 || n_bytes > MODEL_MAX_PIECE_BYTES) {
                return bad_piece(w, id, n_bytes ? "is longer than 1024 bytes" : "is empty");
            }
            piece.text = (const char *)field.bytes.at;
            piece.n_bytes = (uint32_t)n_bytes;
        } else if (field.number == 2) {
            uint32_t bits = (uint32_t)field.value;
            float score;
            memcpy(&score, &bits, sizeof score);
            if (!isfinite(score) || fabsf(score) > (float)MAX_SCORE) {
                return bad_piece(w, id, "has a score that is not a number in -1e9..1e9");
            }
        } else if (field.number == 3) {
            if (field.value < PIECE_NORMAL || field.value > PIECE_BYTE) {
                return bad_piece(w, id, "has an unknown type");
            }
            piece.type = (uint8_t)field.value;
        }
    }
    if (!piece.text) {
        return bad_piece(w, id, "is empty");
    }
    /* The library builds its tries from C strings, and takes a bad byte sequence apart differently in
     * different places; no trainer writes either. */
    if (memchr(piece.text, 0, piece.n_bytes) || !utf8_is_valid(piece.text, piece.n_bytes)) {
        return bad_piece(w, id, "is not UTF-8 text without NUL");
    }
    if (piece.type == PIECE_BYTE && !byte_piece_read(&piece, &piece.byte)) {
        return bad_piece(w, id, "is of type BYTE but not spelled <0x00>..<0xFF>");
    }
    if (check->n_pieces == MODEL_MAX_PIECES) {
        return bad(w, "more than 1048576 pieces");
    }
    if (check->n_pieces == w->n_slots) {
        int64_t n_slots = w->n_slots ? w->n_slots * 2 : 1024;
        struct model_piece *grown = realloc(check->pieces, (size_t)n_slots * sizeof *grown);
        if (!grown) {
            return error_set(w->err, STATUS_NO_MEMORY, "%s: out of memory", w->path);
        }
        check->pieces = grown;
        w->n_slots = n_slots;
    }
    check->pieces[check->n_pieces++] = piece;
    return STATUS_OK;
}

static int piece_compare(const void *left, const void *right)
{
    const struct model_piece *a = *(const struct model_piece *const *)left;
    const struct model_piece *b = *(const struct model_piece *const *)right;
    size_t shorter = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
    int order = memcmp(a->text, b->text, shorter);
    return order ? order : (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

static bool piece_begins_with(const struct model_piece *piece, const struct model_piece *prefix)
{
    return piece->n_bytes > prefix->n_bytes && !memcmp(piece->text, prefix->text, prefix->n_bytes);
}

/* No piece twice. And of user-defined symbols no more than 64 may begin one another: the library looks
 * them up into a table of 64 but trusts the number found. */
static enum status pieces_check_order(const struct walk *w)
{
    const struct model_check *check = w->check;
    const struct model_piece *nested[MAX_NESTED_USER_SYMBOLS];
    int32_t n_nested = 0;
    enum status status = STATUS_OK;
    const struct model_piece **sorted = malloc((size_t)check->n_pieces * sizeof *sorted);
    if (!sorted) {
        return error_set(w->err, STATUS_NO_MEMORY, "%s: out of memory", w->path);
    }
    for (int32_t id = 0; id < check->n_pieces; id++) {
        sorted[id] = &check->pieces[id];
    }
    qsort(sorted, (size_t)check->n_pieces, sizeof *sorted, piece_compare);
    for (int32_t i = 0; i < check->n_pieces && !status; i++) {
        const struct model_piece *piece = sorted[i];
        if (i && !piece_compare(&sorted[i - 1], &sorted[i])) {
            status = bad_piece(w, piece - check->pieces, "stands in the vocabulary twice");
        } else if (piece->type == PIECE_USER_DEFINED) {
            while (n_nested && !piece_begins_with(piece, nested[n_nested - 1])) {
                n_nested--;
            }
            if (n_nested == MAX_NESTED_USER_SYMBOLS) {
                status = bad_piece(w, piece - check->pieces,
                                   "begins with more than 63 other user-defined symbols");
            } else {
                nested[n_nested++] = piece;
            }
        }
    }
    free(sorted);
    return status;
}

static int32_t control_find(const struct model_check *check, struct span name)
{
    size_t n_bytes = (size_t)(name.end - name.at);
    for (int32_t id = 0; id < check->n_pieces; id++) {
        const struct model_piece *piece = &check->pieces[id];
        if (piece->type == PIECE_CONTROL && piece->n_bytes == n_bytes &&
            !memcmp(piece->text, name.at, n_bytes)) {
            return id;
        }
    }
    return -1;
}

static enum status pieces_check(struct walk *w)
{
    struct model_check *check = w->check;
    int32_t n_unknown = 0, n_bytes = 0, n_plain = 0;
    if (!check->n_pieces) {
        return bad(w, "it has no pieces");
    }
    for (int32_t id = 0; id < check->n_pieces; id++) {
        uint8_t type = check->pieces[id].type;
        n_unknown += type == PIECE_UNKNOWN;
        n_bytes += type == PIECE_BYTE;
        n_plain += type == PIECE_NORMAL || type == PIECE_USER_DEFINED || type == PIECE_UNUSED;
    }
    if (n_unknown != 1) {
        return bad(w, n_unknown ? "more than one piece of type UNKNOWN" : "no piece of type UNKNOWN");
    }
    /* Byte pieces are unique by the check of duplicates, so 256 of them are all of them. */
    if (check->byte_fallback && n_bytes != 256) {
        return bad(w, "byte_fallback is on, but the 256 byte pieces are not there");
    }
    if (!check->byte_fallback && n_bytes) {
        return bad(w, "byte pieces without byte_fallback");
    }
    if (!n_plain) {
        return bad(w, "it has no text pieces");
    }
    check->bos = control_find(check, w->bos_name);
    check->eos = control_find(check, w->eos_name);
    return pieces_check_order(w);
}

/* ---- the other messages ---- */

static enum status string_field(const struct walk *w, const struct field *field, size_t max_bytes,
                                struct span *out)
{
    size_t n_bytes = (size_t)(field->bytes.end - field->bytes.at);
    if (field->wire != WIRE_BYTES) {
        return bad_field(w, "TrainerSpec", field->number, "is not a string");
    }
    if (n_bytes > max_bytes) {
        return bad_field(w, "TrainerSpec", field->number, "is too long");
    }
    if (memchr(field->bytes.at, 0, n_bytes) || !utf8_is_valid((const char *)field->bytes.at, n_bytes)) {
        return bad_field(w, "TrainerSpec", field->number, "is not UTF-8 text without NUL");
    }
    *out = field->bytes;
    return STATUS_OK;
}

/* TrainerSpec: only the fields that the loader and encoder read. Field numbers from
 * sentencepiece_model.proto. */
static enum status trainer_walk(struct walk *w, struct span s)
{
    enum {
        MODEL_TYPE = 3,
        WHITESPACE_AS_SUFFIX = 24,
        BYTE_FALLBACK = 35,
        UNK_SURFACE = 44,
        UNK_PIECE = 45,
        BOS_PIECE = 46,
        EOS_PIECE = 47,
        PAD_PIECE = 48,
        N_FIELDS = 64
    };
    enum { UNIGRAM = 1, BPE = 2 };
    struct model_check *check = w->check;
    struct span surface = {(const uint8_t *)check->unk_surface,
                           (const uint8_t *)check->unk_surface + check->unk_surface_bytes};
    bool seen[N_FIELDS] = {false};
    while (s.at < s.end) {
        struct field field;
        struct span ignored;
        enum status status = field_read(w, &s, "TrainerSpec", &field);
        if (status) {
            return status;
        }
        switch (field.number) {
        case MODEL_TYPE:
        case WHITESPACE_AS_SUFFIX:
        case BYTE_FALLBACK:
        case UNK_SURFACE:
        case UNK_PIECE:
        case BOS_PIECE:
        case EOS_PIECE:
        case PAD_PIECE:
            if (seen[field.number]) {
                return bad_field(w, "TrainerSpec", field.number, "stands twice");
            }
            seen[field.number] = true;
            break;
        default:
            continue;
        }
        if (field.number < UNK_SURFACE && field.wire != WIRE_VARINT) {
            return bad_field(w, "TrainerSpec", field.number, "is not an integer");
        }
        switch (field.number) {
        case MODEL_TYPE:
            if (field.value != UNIGRAM && field.value != BPE) {
                return bad(w, "model_type is neither UNIGRAM nor BPE");
            }
            break;
        case WHITESPACE_AS_SUFFIX:
            if (field.value) {
                return bad(w, "treat_whitespace_as_suffix is not supported");
            }
            break;
        case BYTE_FALLBACK:
            check->byte_fallback = field.value != 0;
            break;
        case UNK_SURFACE:
            status = string_field(w, &field, MODEL_MAX_UNK_SURFACE_BYTES, &surface);
            break;
        case BOS_PIECE:
            status = string_field(w, &field, MODEL_MAX_PIECE_BYTES,
                                  field.bytes.at == field.bytes.end ? &ignored : &w->bos_name);
            break;
        case EOS_PIECE:
            status = string_field(w, &field, MODEL_MAX_PIECE_BYTES,
                                  field.bytes.at == field.bytes.end ? &ignored : &w->eos_name);
            break;
        default:
            status = string_field(w, &field, MODEL_MAX_PIECE_BYTES, &ignored);
        }
        if (status) {
            return status;
        }
    }
    check->unk_surface = (const char *)surface.at;
    check->unk_surface_bytes = (size_t)(surface.end - surface.at);
    return STATUS_OK;
}

static enum status normalizer_walk(struct walk *w, struct span s)
{
    enum { CHARSMAP = 2, DUMMY_PREFIX = 3, REMOVE_WHITESPACES = 4, ESCAPE_WHITESPACES = 5, N_FIELDS = 6 };
    bool seen[N_FIELDS] = {false};
    while (s.at < s.end) {
        struct field field;
        enum status status = field_read(w, &s, "NormalizerSpec", &field);
        if (status) {
            return status;
        }
        if (field.number < CHARSMAP || field.number >= N_FIELDS) {
            continue;
        }
        if (field.wire != (field.number == CHARSMAP ? WIRE_BYTES : WIRE_VARINT)) {
            return bad_field(w, "NormalizerSpec", field.number, "is of a wrong type");
        }
        if (seen[field.number]) {
            return bad_field(w, "NormalizerSpec", field.number, "stands twice");
        }
        seen[field.number] = true;
        if (field.number == CHARSMAP) {
            const char *reason = NULL;
            w->check->has_charsmap = field.bytes.end > field.bytes.at;
            status = charsmap_check(field.bytes.at, (size_t)(field.bytes.end - field.bytes.at),
                                    &w->check->max_replacement_bytes, &reason);
            if (status) {
                return status == STATUS_NO_MEMORY
                           ? error_set(w->err, status, "%s: out of memory", w->path)
                           : bad_field(w, "precompiled_charsmap of NormalizerSpec", field.number, reason);
            }
        } else if (field.number == DUMMY_PREFIX) {
            w->check->add_dummy_prefix = field.value != 0;
        } else if (field.number == REMOVE_WHITESPACES) {
            w->check->remove_extra_whitespaces = field.value != 0;
        }
    }
    return STATUS_OK;
}

/* A denormalizer rewrites the whole decoded text; a stream cannot, so one with rules is refused. */
static enum status denormalizer_walk(const struct walk *w, struct span s)
{
    while (s.at < s.end) {
        struct field field;
        enum status status = field_read(w, &s, "denormalizer_spec", &field);
        if (status) {
            return status;
        }
        if (field.number == 2 && (field.wire != WIRE_BYTES || field.bytes.at < field.bytes.end)) {
            return bad(w, "a denormalizer with rules is not supported");
        }
    }
    return STATUS_OK;
}

/* The library encodes the samples while it loads, so their size is limited. */
static enum status self_test_walk(const struct walk *w, struct span s)
{
    if (s.end - s.at > MODEL_MAX_SELF_TEST_BYTES) {
        return bad(w, "self_test_data is larger than 64 KiB");
    }
    while (s.at < s.end) {
        struct field field;
        enum status status = field_read(w, &s, "self_test_data", &field);
        if (status) {
            return status;
        }
        if (field.number != 1) {
            continue;
        }
        if (field.wire != WIRE_BYTES) {
            return bad_field(w, "self_test_data", field.number, "is of a wrong type");
        }
        for (struct span sample = field.bytes; sample.at < sample.end;) {
            struct field part;
            if ((status = field_read(w, &sample, "self_test_data sample", &part))) {
                return status;
            }
        }
    }
    return STATUS_OK;
}

static enum status once(const struct walk *w, bool *seen, const char *name)
{
    if (*seen) {
        return error_set(w->err, STATUS_BAD_MODEL, "%s: not a usable sentencepiece model: %s stands twice",
                         w->path, name);
    }
    *seen = true;
    return STATUS_OK;
}

static enum status model_walk(struct walk *w, struct span s)
{
    enum { PIECES = 1, TRAINER = 2, NORMALIZER = 3, SELF_TEST = 4, DENORMALIZER = 5 };
    while (s.at < s.end) {
        struct field field;
        enum status status = field_read(w, &s, "ModelProto", &field);
        if (status) {
            return status;
        }
        if (field.number > DENORMALIZER) {
            continue;
        }
        if (field.wire != WIRE_BYTES) {
            return bad_field(w, "ModelProto", field.number, "is not a message");
        }
        switch (field.number) {
        case PIECES:
            status = piece_walk(w, field.bytes);
            break;
        case TRAINER:
            status = once(w, &w->seen_trainer, "trainer_spec");
            status = status ? status : trainer_walk(w, field.bytes);
            break;
        case NORMALIZER:
            status = once(w, &w->seen_normalizer, "normalizer_spec");
            status = status ? status : normalizer_walk(w, field.bytes);
            break;
        case SELF_TEST:
            status = once(w, &w->seen_self_test, "self_test_data");
            status = status ? status : self_test_walk(w, field.bytes);
            break;
        default:
            status = once(w, &w->seen_denormalizer, "denormalizer_spec");
            status = status ? status : denormalizer_walk(w, field.bytes);
        }
        if (status) {
            return status;
        }
    }
    return STATUS_OK;
}

enum status model_check_init(struct model_check *check, const void *bytes, size_t n_bytes, const char *path,
                             struct error *err)
{
    /* The defaults of sentencepiece_model.proto. */
    static const char bos[] = "<s>", eos[] = "</s>", surface[] = " \xe2\x81\x87 ";
    *check = (struct model_check){.add_dummy_prefix = true,
                                  .remove_extra_whitespaces = true,
                                  .bos = -1,
                                  .eos = -1,
                                  .unk_surface = surface,
                                  .unk_surface_bytes = sizeof surface - 1};
    struct walk w = {.check = check,
                     .path = path,
                     .err = err,
                     .bos_name = {(const uint8_t *)bos, (const uint8_t *)bos + sizeof bos - 1},
                     .eos_name = {(const uint8_t *)eos, (const uint8_t *)eos + sizeof eos - 1}};
    enum status status = model_walk(&w, (struct span){bytes, (const uint8_t *)bytes + n_bytes});
    if (!status) {
        status = pieces_check(&w);
    }
    if (status) {
        model_check_finish(check);
    }
    return status;
}

void model_check_finish(struct model_check *check)
{
    free(check->pieces);
    *check = (struct model_check){0};
}
