"""Stream, answer and `any4 generate` agree; clients side by side get what they get alone."""
import json
import random
import threading

from support import Server, any4, fits, model_folder

PROMPTS = ['Once upon a time', 'One day', 'Lily and Tom', 'The dog', 'A big red ball', 'She was very', 'In the park', '']


def joined(chunks, index=0):
    return ''.join(c['text'] for chunk in chunks for c in chunk['choices'] if c['index'] == index)


def check_agreement(server):
    cases = [
        dict(prompt=PROMPTS[0], max_tokens=60, temperature=0),
        dict(prompt=PROMPTS[1], max_tokens=80, temperature=0.9, top_p=0.9, seed=7),
        dict(prompt=PROMPTS[2], max_tokens=80, temperature=1.3, top_k=20, min_p=0.01, seed=-5, stop=['the', '. ']),
        dict(prompt=[1, 403, 407], max_tokens=20, temperature=1, seed=2 ** 62, repetition_penalty=1.2),
        dict(prompt=PROMPTS[7], max_tokens=30, temperature=0, echo=True),
    ]
    for case in cases:
        answer = server.complete(return_token_ids=True, **case)
        choice = answer['choices'][0]
        chunks = server.stream(return_token_ids=True, stream_options={'include_usage': True}, **case)
        fits(joined(chunks) == choice['text'], case, joined(chunks), choice['text'])
        fits([i for c in chunks for x in c['choices'] for i in x['token_ids']] == choice['token_ids'], case)
        fits(chunks[-1]['choices'] == [] and chunks[-1]['usage'] == answer['usage'], chunks[-1], answer['usage'])
        fits(chunks[-2]['choices'][0]['finish_reason'] == choice['finish_reason'], chunks[-2])
        fits(chunks[-2]['choices'][0]['stop_reason'] == choice['stop_reason'], chunks[-2])
        flags = []
        for name, value in case.items():
            if name == 'prompt' and isinstance(value, list):
                flags += ['--prompt-ids', ','.join(map(str, value))]
            elif name == 'echo':
                flags += ['--echo']
            else:
                for v in value if isinstance(value, list) else [value]:
                    flags += ['--' + name.replace('_', '-') + '=' + str(v)]
        run = any4('generate', model_folder(), '--quant', 'none', '--json', *flags)
        fits(run.returncode == 0, run.stderr)
        own = json.loads(run.stdout)
        for key in ('prompt_token_ids', 'token_ids', 'text', 'finish_reason'):
            fits(own[key] == choice[key], case, key, own[key], choice[key])


def check_choices(server):
    """Choice i is a single request with seed + i; prompts of a list are requests of their own."""
    together = server.complete(prompt=PROMPTS[:3], n=3, seed=100, max_tokens=25)
    fits([c['index'] for c in together['choices']] == list(range(9)))
    for p in range(3):
        for i in range(3):
            alone = server.complete(prompt=PROMPTS[p], seed=100 + i, max_tokens=25)
            fits(alone['choices'][0]['text'] == together['choices'][3 * p + i]['text'], p, i)
    chunks = server.stream(prompt=PROMPTS[:3], n=3, seed=100, max_tokens=25)
    for i in range(9):
        fits(joined(chunks, i) == together['choices'][i]['text'], i)
    best = server.complete(prompt=PROMPTS[0], n=2, best_of=5, seed=3, max_tokens=12)
    fits(len(best['choices']) == 2 and best['choices'][0]['logprobs'] is None, best)
    scored = [server.complete(prompt=PROMPTS[0], seed=3 + i, max_tokens=12, logprobs=0)['choices'][0] for i in range(5)]
    scored.sort(key=lambda c: -sum(c['logprobs']['token_logprobs']) / len(c['logprobs']['token_logprobs']))
    fits([c['text'] for c in scored[:2]] == [c['text'] for c in best['choices']], 'best_of')


def check_logprobs(server):
    whole = server.complete(prompt=PROMPTS[0], max_tokens=10, temperature=0, logprobs=3, echo=True)['choices'][0]
    lp = whole['logprobs']
    fits(lp['token_logprobs'][0] is None and lp['top_logprobs'][0] is None, lp)
    fits(len({len(lp[k]) for k in ('tokens', 'token_logprobs', 'top_logprobs', 'text_offset')}) == 1, lp)
    for token, offset, value, top in list(zip(lp['tokens'], lp['text_offset'], lp['token_logprobs'], lp['top_logprobs']))[1:]:
        fits(whole['text'][offset:].startswith(token), token, offset, whole['text'])
        fits(value <= 0 and token in top and len(top) in (3, 4), top)
    parts = server.stream(prompt=PROMPTS[0], max_tokens=10, temperature=0, logprobs=3, echo=True)
    for key in lp:
        fits([x for c in parts for x in c['choices'][0]['logprobs'][key]] == lp[key], key)


def check_side_by_side(server):
    cases = [dict(prompt=PROMPTS[i % 8], max_tokens=20 + 5 * i, temperature=i % 3 * 0.5, seed=i, logprobs=1)
             for i in range(24)]
    alone = [server.complete(**case)['choices'] for case in cases]
    wrong = []

    def client(number):
        order = list(range(len(cases)))
        random.Random(number).shuffle(order)
        for i in order:
            if number % 2:
                chunks = server.stream(**cases[i])
                same = joined(chunks) == alone[i][0]['text']
            else:
                same = server.complete(**cases[i])['choices'] == alone[i]
            if not same:
                wrong.append((number, i))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    fits(not wrong, 'answers differ from those alone:', wrong)


with Server() as s:
    check_agreement(s)
    check_choices(s)
    check_logprobs(s)
    check_side_by_side(s)
    fits(s.gauge('requests_running') == 0 and s.gauge('kv_tokens_used') == 0, 'something is left over')
