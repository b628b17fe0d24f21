"""The openai Python package against the real binary: answers, streams, and the exception classes of bad input."""
import os
import sys
import threading
import time

try:
    import openai
except ImportError:
    other = os.environ.pop('TEST_CLIENT_PYTHON', None)
    if other:
        os.execv(other, [other, *sys.argv])
    print('*** SKIPPED: import openai fails (pip install openai, or set TEST_CLIENT_PYTHON) ***', file=sys.stderr)
    sys.exit(77)

from support import Server, demo_folder, fits

MODEL = 'demo-model'
QUESTION = [{'role': 'user', 'content': 'What is two plus three?'}]


def client_of(server, key='none'):
    return openai.OpenAI(base_url=f'http://127.0.0.1:{server.port}/v1', api_key=key, max_retries=0, timeout=120)


def raises(kind, call, status, code, param=None):
    try:
        call()
    except openai.APIStatusError as error:
        fits(type(error) is kind, 'expected', kind, 'and got', type(error), error)
        fits(error.status_code == status and error.code == code, error.status_code, error.code, error)
        fits(param is None or error.param == param, error.param, param)
        fits(error.request_id, 'no request id')
        return error
    raise AssertionError(f'{kind.__name__} did not come')


def check_answers(client):
    fits([m.id for m in client.models.list()] == [MODEL], client.models.list())
    fits(client.models.retrieve(MODEL).object == 'model')
    text = dict(model=MODEL, prompt='One day', max_tokens=30, temperature=0.8, seed=3)
    whole = client.completions.create(**text, logprobs=2)
    fits(whole.usage.completion_tokens == 30 or whole.choices[0].finish_reason == 'stop', whole)
    fits(len(whole.choices[0].logprobs.tokens) == len(whole.choices[0].logprobs.top_logprobs) > 0, whole)
    parts = list(client.completions.create(**text, stream=True, stream_options={'include_usage': True}))
    fits(''.join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text, parts)
    fits(parts[-1].usage == whole.usage, parts[-1])

    chat = dict(model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**chat)
    choice = whole.choices[0]
    fits(whole.object == 'chat.completion' and choice.message.role == 'assistant' and choice.message.content, whole)
    fits(choice.finish_reason in ('stop', 'length') and choice.message.tool_calls is None, choice)
    fits(bytes(b for t in choice.logprobs.content for b in t.bytes).decode() == choice.message.content, choice)
    fits(all(len(t.top_logprobs) == 2 for t in choice.logprobs.content), choice)
    parts = list(client.chat.completions.create(**chat, stream=True, stream_options={'include_usage': True}))
    deltas = [p.choices[0].delta for p in parts if p.choices]
    fits(deltas[0].role == 'assistant' and deltas[-1].content is None, deltas)
    fits(''.join(d.content or '' for d in deltas) == choice.message.content, deltas)
    fits([p.choices[0].finish_reason for p in parts if p.choices][-1] == choice.finish_reason, parts[-2])
    fits(parts[-1].usage == whole.usage, parts[-1])
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
        final = stream.get_final_completion()
    fits(final.choices[0].message.content == choice.message.content, final)
    # An answer goes back as history the way the package writes it.
    again = QUESTION + [choice.message.model_dump(), {'role': 'user', 'content': 'And four?', 'name': 'Ann'}]
    two = client.chat.completions.create(model=MODEL, messages=again, n=2, max_completion_tokens=8, seed=1)
    fits([c.index for c in two.choices] == [0, 1], two)


def check_exceptions(client, server):
    chat, complete, bad = client.chat.completions.create, client.completions.create, openai.BadRequestError
    raises(bad, lambda: chat(model=MODEL, messages=[]), 400, 'invalid_value', 'messages')
    raises(bad, lambda: chat(model=MODEL, messages=[{'role': 'robot', 'content': 'a'}]), 400, 'invalid_value',
           'messages[0].role')
    raises(bad, lambda: chat(model=MODEL, messages=QUESTION, temperature=9), 400, 'invalid_value', 'temperature')
    raises(bad, lambda: chat(model=MODEL, messages=QUESTION, max_tokens=1020), 400, 'context_length_exceeded')
    raises(bad, lambda: chat(model=MODEL, messages=QUESTION, stream=True, tools=[{'type': 'function', 'function': {
        'name': 'f', 'parameters': {}}}]), 400, 'unsupported_parameter', 'tools')
    raises(bad, lambda: complete(model=MODEL, prompt=[]), 400, 'invalid_value', 'prompt')
    raises(openai.NotFoundError, lambda: chat(model='gpt-9', messages=QUESTION), 404, 'model_not_found', 'model')
    raises(openai.NotFoundError, lambda: complete(model='gpt-9', prompt='a', stream=True), 404, 'model_not_found')
    raises(openai.NotFoundError, lambda: client.models.retrieve('gpt-9'), 404, 'model_not_found')
    raises(openai.NotFoundError, lambda: client.embeddings.create(model=MODEL, input='a'), 404, 'unknown_url')
    raises(openai.AuthenticationError, lambda: chat_with(server, 'wrong'), 401, 'invalid_api_key')


def chat_with(server, key):
    return client_of(server, key).chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2)


def check_rate_limit():
    """One sequence runs, one waits: the third is refused, and the package knows what that is."""
    with Server('--max-running', '1', '--max-queue', '1', model=demo_folder()) as server:
        client = client_of(server)
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                try:
                    client.completions.create(model=MODEL, prompt='One day', max_tokens=900,
                                              extra_body={'ignore_eos': True})
                except openai.RateLimitError:
                    time.sleep(0.02)

        busy = [threading.Thread(target=keep_busy) for _ in range(3)]
        for thread in busy:
            thread.start()
        error, deadline = None, time.monotonic() + 60
        while not error and time.monotonic() < deadline:
            try:
                client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1)
            except openai.RateLimitError as caught:
                error = caught
        stop.set()
        for thread in busy:
            thread.join()
        fits(error and error.status_code == 429 and error.code == 'queue_full', error)
        fits(int(error.response.headers['Retry-After']) >= 1, error.response.headers)


with Server('--api-key', 'secret', model=demo_folder()) as s:
    check_answers(client_of(s, 'secret'))
    check_exceptions(client_of(s, 'secret'), s)
check_rate_limit()
print('openai', openai.__version__)
