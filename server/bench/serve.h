/* `any4 bench serve`: a load generator for any server that streams OpenAI completions. */
#ifndef SERVER_BENCH_SERVE_H
#define SERVER_BENCH_SERVE_H

/* Runs a load test and prints its report on stdout (progress and errors on stderr). argv[0] is skipped, flags
 * begin at argv[1]. Returns the exit code: 0 done, 1 nothing succeeded, stopped early or a fault, 2 usage, 10
 * --slo missed. Takes SIGINT for the time of the run: what was measured until then is reported. */
int bench_serve_main(int argc, char **argv);

#endif
