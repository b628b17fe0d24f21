"""Chat on the demo model: the template, the stream and the answer agree, and /v1/completions on the same ids gives the
same text."""
import json
import tempfile
import time

from support import Server, demo_folder, fits

PATH = '/v1/chat/completions'
TALK = [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'Hello!'},
        {'role': 'assistant', 'content': 'Hello.'}, {'role': 'user', 'content': 'What do we taste with?'}]
QUESTION = [{'role': 'user', 'content': [{'type': 'text', 'text': 'What is two '}, {'type': 'text', 'text': 'plus three?'}]}]
LLAMA2 = '<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello! [/INST] Hello.</s><s>[INST] What do we taste with? [/INST]'
PLAIN = 'Be kind.\nQuestion: Hello!\nAnswer: Hello.\nQuestion: What do we taste with?\nAnswer:'


def post(server, path, status=200, **fields):
    got, headers, data = server.ask('POST', path, fields)
    fits(got == status, path, fields, got, data)
    return json.loads(data)


def check_agreement(server, stops):
    cases = [
        dict(messages=QUESTION, temperature=0),
        dict(messages=TALK, temperature=0, max_tokens=40, logprobs=True, top_logprobs=3),
        dict(messages=TALK, temperature=1.2, seed=11, max_tokens=60, n=3, logprobs=True),
        dict(messages=QUESTION, temperature=1, seed=5, max_tokens=50, stop=['ee', 'wo'], include_stop_str_in_output=True),
        dict(messages=QUESTION, temperature=1, seed=6, max_tokens=50, ignore_eos=True),
        dict(messages=QUESTION, temperature=1, seed=7, max_completion_tokens=1),
    ]
    for case in cases:
        answer = post(server, PATH, return_token_ids=True, **case)
        chunks = server.stream(PATH, return_token_ids=True, stream_options={'include_usage': True}, **case)
        fits(answer['object'] == 'chat.completion' and answer['id'].startswith('chatcmpl-'), answer)
        fits(chunks[-1]['choices'] == [] and chunks[-1]['usage'] == answer['usage'], chunks[-1], answer['usage'])
        fits(all(c['object'] == 'chat.completion.chunk' for c in chunks), chunks[0])
        for choice in answer['choices']:
            content = choice['message']['content']
            parts = [x for c in chunks for x in c['choices'] if x['index'] == choice['index']]
            fits(parts[0]['delta']['role'] == 'assistant' and 'content' in parts[0]['delta'], parts[0])
            fits(all('role' not in p['delta'] and p['finish_reason'] is None for p in parts[1:-1]), parts)
            fits(parts[-1]['delta'] == {}, parts[-1])
            for key in ('finish_reason', 'stop_reason'):
                fits(parts[-1][key] == choice[key], key, parts[-1], choice)
            fits(''.join(p['delta'].get('content', '') for p in parts) == content, parts, content)
            fits([i for p in parts for i in p['token_ids']] == choice['token_ids'], case)
            if case.get('logprobs'):
                tokens = choice['logprobs']['content']
                fits([t for p in parts for t in p['logprobs']['content']] == tokens, parts)
                fits(bytes(b for t in tokens for b in t['bytes'] or []).decode() == content, tokens, content)
                fits(all(len(t['top_logprobs']) == case.get('top_logprobs', 0) for t in tokens), tokens)
            # The same ids as a completion; its text goes on from the prompt, so it keeps the space in front.
            ids = post(server, '/v1/apply-template', messages=case['messages'])['tokens']
            own = {k: v for k, v in case.items() if k not in ('messages', 'logprobs', 'top_logprobs', 'n')}
            own.setdefault('max_tokens', own.pop('max_completion_tokens', 400))
            if 'seed' in own:
                own['seed'] += choice['index']
            if stops and 'stop' not in own and not own.get('ignore_eos'):
                own['stop'] = stops
            text = server.complete(prompt=ids, **own)['choices'][0]['text']
            fits(content == text[text.startswith(' '):], case, content, text)


def check_folder(folder, prompt, stops):
    with Server('--max-model-len', '512', model=folder) as server:
        rendered = post(server, '/v1/apply-template', messages=TALK)
        fits(rendered['prompt'] == prompt, rendered)
        counted = post(server, '/v1/tokenize', messages=TALK)
        fits(counted['tokens'] == rendered['tokens'] and counted['count'] == len(rendered['tokens']), counted)
        check_agreement(server, stops)
        # Without max_tokens the context is the limit.
        whole = post(server, PATH, messages=TALK, ignore_eos=True)
        fits(whole['usage']['total_tokens'] == 512 and whole['choices'][0]['finish_reason'] == 'length', whole['usage'])
        wrong = post(server, PATH, 400, messages=TALK, max_tokens=500)['error']
        fits(wrong['code'] == 'context_length_exceeded' and wrong['param'] == 'messages', wrong)
        deadline = time.monotonic() + 5  # a sequence that a stop string ended leaves the batch at the next step
        while server.gauge('requests_running') or server.gauge('kv_tokens_used'):
            fits(time.monotonic() < deadline, 'something is left over')
            time.sleep(0.01)


check_folder(demo_folder(), LLAMA2, [])
with tempfile.TemporaryDirectory() as plain:
    check_folder(demo_folder(plain), PLAIN, ['\nQuestion:'])
with tempfile.TemporaryDirectory() as other, Server('--default-max-tokens', '9', model=demo_folder(other, '{{ x }}')) as s:
    error = post(s, PATH, 400, messages=TALK)['error']
    fits(error['code'] == 'unsupported_parameter' and '/v1/completions' in error['message'], error)
    s.complete(prompt='One day', max_tokens=3)
with Server('--default-max-tokens', '9', model=demo_folder()) as s:
    usage = post(s, PATH, messages=QUESTION, ignore_eos=True)['usage']
    fits(usage['completion_tokens'] == 9, usage)
    error = post(s, PATH, 400, messages=[QUESTION[0], QUESTION[0]])['error']
    fits(error['code'] == 'invalid_value' and error['param'] == 'messages[1].role', error)
