/* One line per event on standard error (or a file): JSON objects or plain text. Thread-safe; never blocks on
 * anything but the write itself. Control characters in values are escaped, so one event is always one line.
 */
#ifndef ENGINE_BASE_LOG_H
#define ENGINE_BASE_LOG_H

#include <stdbool.h>
#include <stdio.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* file is borrowed (not closed). Default before the first call: text, info, stderr. */
void log_configure(enum log_format format, enum log_level level, FILE *file);
bool log_enabled(enum log_level level);

/* printf-style message: {"ts":..., "level":"info", "msg":"..."} or "12:00:00 info ...". */
__attribute__((format(printf, 2, 3))) void log_message(enum log_level level, const char *format, ...);

/* One prepared JSON object body without braces, e.g. "\"status\":200,\"endpoint\":\"/v1/completions\"":
 * written as {"ts":...,"level":...,<body>} in JSON format, or as plain key text otherwise. */
void log_event(enum log_level level, const char *json_body);

#define log_error(...)   log_message(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_DEBUG, __VA_ARGS__)

/* A progress bar on a terminal (redrawn in place, at most 10 times a second), else a log line about every 10
 * %, at most one a second. done in [0, total]; total == done ends it. Call from one thread at a time. */
void log_progress(const char *label, double done, double total);

#endif
