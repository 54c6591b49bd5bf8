"""Makes chats.json and expressions.json beside it. Needs transformers (no torch)."""
import json
import pathlib

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
TOKENIZERS = HERE.parent / "tokenizers"
MARK, UNMARK = "{% generation %}", "{% endgeneration %}"


def turn(content, close):
    """An answer with what ends it, marked."""
    return f"{MARK}{{{{ {content} + {close!r} }}}}{UNMARK}"


# In the words of this file, with the text of the published templates.
CHATML = ("{% for message in messages %}\n"
          "    {%- if loop.first and message.role != 'system' and system_default %}"
          "{{- '<|im_start|>system\\n' + system_default + '<|im_end|>\\n' }}{%- endif %}\n"
          "    {%- if message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
          + turn("message.content", "<|im_end|>") + "{{ '\\n' }}\n"
          "    {%- else %}{{- '<|im_start|>' + message['role'] + '\\n' ~ message['content'] ~ '<|im_end|>' + '\\n' }}\n"
          "    {%- endif %}\n"
          "{%- endfor %}\n"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
# Qwen 3: the last answer begins with an empty thought, earlier thoughts are cut off.
THINKING = ("""{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set place = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == "user" and message.content is string %}
        {%- set ns.last = place %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) or message.role == "system" %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {%- generation %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') + '<|im_end|>' }}{% endgeneration %}
        {%- else %}
            {%- generation %}{{- content + '<|im_end|>' }}{% endgeneration %}
        {%- endif %}
        {{- '\\n' }}
    {%- endif %}
{%- endfor %}""")
PHI4 = ("{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant<|im_sep|>' }}"
        + turn("message['content']", "<|im_end|>")
        + "{% else %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endif %}"
        "{% endfor %}")
LLAMA3 = ("{{- bos_token }}\n"
          "{%- if messages[0]['role'] == 'system' %}\n{%- set system_message = messages[0]['content']|trim %}\n"
          "{%- set messages = messages[1:] %}\n{%- else %}\n{%- set system_message = '' %}\n{%- endif %}\n"
          "{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\n"
          "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
          "{{- 'Cutting Knowledge Date: December 2023\\n' }}\n{{- 'Today Date: ' + date_string + '\\n\\n' }}\n"
          "{{- system_message }}\n{{- '<|eot_id|>' }}\n"
          "{%- for message in messages %}\n"
          "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
          "    {%- if message['role'] == 'assistant' %}{%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}"
          "{%- endgeneration %}\n"
          "    {%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}\n"
          "{%- endfor %}")
LLAMA3_PLAIN = ("{% set loop_messages = messages %}{% for message in loop_messages %}"
                "{% set head = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' %}"
                "{% if loop.index0 == 0 %}{% set head = bos_token + head %}{% endif %}{{ head }}"
                "{% if message.role == 'assistant' %}" + turn("message['content'] | trim", "<|eot_id|>")
                + "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}")


def mistral(open_user, close_user, lead, system):
    """`system`: first or last, the user's turn that holds it; or none."""
    here = {"first": "loop.index0 == 0", "last": "loop.index0 == ns.last", "none": "false"}[system]
    return ("{{- bos_token }}{%- set system = '' %}"
            "{%- if messages[0].role == 'system' %}"
            + ("{{- raise_exception('no system messages') }}" if system == "none" else
               "{%- set system = messages[0].content %}{%- set messages = messages[1:] %}")
            + "{%- endif %}"
            "{%- set ns = namespace(last=0) %}"
            "{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
            "{%- for message in messages %}"
            "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{- raise_exception('roles must take turns') }}{%- endif %}"
            "{%- if message.role == 'user' %}{{- " + repr(open_user) + " }}"
            "{%- if system and " + here + " %}{{- system + '\\n\\n' }}{%- endif %}"
            "{{- message.content + " + repr(close_user) + " }}"
            "{%- else %}{{- " + repr(lead) + " }}{% generation %}{{- message.content + eos_token }}{% endgeneration %}"
            "{%- endif %}{%- endfor %}")


LLAMA2 = ("{% for message in messages %}{% if message.role == 'user' %}"
          "{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}{% elif message.role == 'assistant' %}{{ ' ' }}"
          "{% generation %}{{ message.content.strip() + ' ' + eos_token }}{% endgeneration %}"
          "{% else %}{{ raise_exception('no system messages') }}{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
         "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
         "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
         "{%- for message in loop_messages -%}"
         "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
         "{{ raise_exception('roles must take turns') }}{%- endif -%}"
         "{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}"
         "{%- set role = message['role'] -%}{%- endif -%}"
         "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
         "{%- if role == 'model' -%}{% generation %}{{ message['content'] | trim }}{{ '<end_of_turn>' }}{% endgeneration %}"
         "{%- else -%}{{ message['content'] | trim }}{{ '<end_of_turn>' }}{%- endif -%}{{ '\n' }}"
         "{%- endfor -%}")
PHI3 = ("{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\n' }}"
        + turn("message['content']", "<|end|>") + "{{ '\n' }}{% else %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
PHI4_MINI = ("{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
             + turn("message['content']", "<|end|>") + "{% else %}"
             "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{{ eos_token }}")

CASES = [
    ("chatml", "chatml", "qwen2", CHATML, {}),
    ("chatml with a default", "chatml", "smollm",
     "{% set system_default = 'You are a helpful assistant.' %}" + CHATML, {}),
    ("chatml with thoughts", "chatml", "qwen2", THINKING, {}),
    ("phi-4", "chatml", "phi4", PHI4, {}),
    ("llama-3.1", "llama-3", "llama3", LLAMA3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    ("llama-3", "llama-3", "llama3", LLAMA3_PLAIN, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    ("mistral v1", "mistral", "mistral", mistral("[INST] ", " [/INST]", " ", "none"),
     {"bos_token": "<s>", "eos_token": "</s>"}),
    ("mistral v3", "mistral", "mistral", mistral("[INST] ", "[/INST]", " ", "last"),
     {"bos_token": "<s>", "eos_token": "</s>"}),
    ("mistral tekken", "mistral", "mistral_nemo", mistral("[INST]", "[/INST]", "", "last"),
     {"bos_token": "<s>", "eos_token": "</s>"}),
    ("mistral, system first", "mistral", "mistral", mistral("[INST] ", "[/INST]", " ", "first"),
     {"bos_token": "<s>", "eos_token": "</s>"}),
    ("llama-2", "mistral", "llama2", LLAMA2, {"bos_token": "<s>", "eos_token": "</s>"}),
    ("gemma", "gemma", "gemma", GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>"}),
    ("phi-3", "phi-3", "phi3", PHI3, {"eos_token": "<|end|>"}),
    ("phi-4-mini", "phi-3", "phi3", PHI4_MINI, {"eos_token": "<|end|>"}),
]


def chat(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


CHATS = [
    chat("What is a transformer?", "A network of attention and feed-forward layers."),
    chat("Hello", "Hello! How can I help?", "Write a haiku.", "Long context flows by,\nkeys and values keep the past;\nqueries look behind."),
    chat("Say it in German", "Guten Morgen, wie geht es Ihnen?", system="You translate."),
    chat("a", "b", "c", "d", "e", "f", system="Answer with the next letter."),
    chat("  spaces around  ", "kept or not?  "),
    chat("Emoji \U0001f642?", "\U0001f642\U0001f643 caf\u00e9 na\u00efve \u4f60\u597d \u0645\u0631\u062d\u0628\u0627"),
    chat("code", "\ndef f(x):\n    return x + 1\n\nprint(f(2))\n"),
    chat("A question", "An answer", "and one without an answer"),
    chat("empty", "", "again", "x"),
    chat("not yet normal: e\u0301", "nor here: u\u0308 o\u0308"),
    chat("think", "<think>\nhm\n</think>\n\nyes", "again", "no"),
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}],
]

EXPRESSIONS = [
    "{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ~ 'a' ~ none ~ true }}",
    "{{ a }}|{{ b.c }}|{{ b['c'] }}|{{ missing }}|{{ b.missing }}|{{ l[0] }}|{{ l[-1] }}|{{ l[1:]|length }}|{{ t[::-1] }}|{{ t[1:3] }}",
    "{% if a is defined and missing is not defined and a is string and l is iterable and b is mapping %}y{% else %}n{% endif %}",
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l if x != 'two' %}{{ loop.index0 }}{{ x }}{% else %}none{% endfor %}{% for x in [] %}a{% else %}none{% endfor %}",
    "{% for k, v in b.items() %}{{ k }}={{ v }};{% endfor %}{% for k in b %}{{ k }}{% endfor %}",
    "{% set x = 1 %}{% for y in l %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% set ns = namespace(n=0) %}{% for y in l %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "line one\n  {% if true %}\n  in\n  {% endif %}\nline two\n",
    "  {%- if true %}  x  {%- endif %}  y",
    "a {#- comment -#} b {# another #}\nc\n  {# alone #}\nd",
    "{{ 'x' if a else 'y' }}{{ 'x' if missing else 'y' }}[{{ 'x' if missing }}]",
    "{{ t | trim }}|{{ '  pad ' | trim }}|{{ t | upper }}|{{ t | length }}|{{ l | join('-') }}|{{ missing | default('d') }}|{{ '' | default('e', true) }}|{{ l | first }}{{ l | last }}",
    "{{ 'a,b,c'.split(',')[1] }}{{ ' x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '\\nq'.lstrip('\\n') }}|{{ t.startswith('te') }}{{ t.endswith(('a', 'xt')) }}{{ t.replace('t', 'T') }}",
    "{{ 'e' in t }} {{ 'zz' not in t }} {{ 'two' in l }} {{ 'c' in b }} {{ not a }} {{ not (1 == 2) and 3 > 2 }}",
    "{% macro f(x, y='d') %}<{{ x }}{{ y }}>{% endmacro %}{{ f('a') }}{{ f('b', 'c') }}{{ f(x='e', y='g') }}",
    "{% for x in l %}{% if x == 'two' %}{% continue %}{% endif %}{{ x }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "{% set block %}text {{ a }}{% endset %}[{{ block }}]",
    "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}{{ (messages | rejectattr('role', 'equalto', 'user') | list | length) }}",
    "{% if messages[0]['role'] == 'system' %}s{% elif (messages[0].role == 'user') != (1 % 2 == 0) %}u{% endif %}",
    "{{ 1 == 1.0 }}{{ 1 == true }}{{ 'a' == 'a' }}{{ none == false }}{{ [1, 2] == [1, 2] }}{{ {'a': 1} == {'a': 1} }}{{ (1, 2) == (1, 2) }}",
    "{{ range(3) | join }}{{ range(1, 7, 2) | list | length }}{% set a, b = 'p', 'q' %}{{ a }}{{ b }}",
    "{{ '\\t' + \"it's\" + 'say \"x\"' }}{{ 'a' 'b' }}{{- ' tail' -}}   \n  end",
    "{% if messages and messages[0] is mapping and not missing %}ok{% endif %}{{ 5 is odd }}{{ 4 is divisibleby 2 }}{{ 'x' is in ['x'] }}",
    "{{ b.get('c') }}{{ b.get('zz', 'other') }}{{ b.keys() | list | length }}",
    "{%+ if true %} kept {%+ endif %}\n{% if true +%}\nkept{% endif %}",
    "{{ 'caf\u00e9'[-1] }}{{ 'caf\u00e9' | length }}{{ 'gr\u00fc\u00dfe'[2:4] }}",
    "{{ missing.attribute }}",
    "{{ raise_exception('stop') }}",
    "{{ 1 / 0 }}",
    "{% if %}",
    "{{ 'open",
    "{% for x in l %}",
    "{{ a b }}",
]
VARIABLES = {"a": "A", "b": {"c": "bee", "n": 3}, "l": ["one", "two", "three"], "t": "text",
             "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


def main():
    cases = []
    for name, form, tokenizer, template, tokens in CASES:
        fast = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZERS / tokenizer / "tokenizer.json"), **tokens)
        case = {"name": name, "format": form, "tokenizer": tokenizer, "template": template, "variables": tokens, "chats": []}
        for messages in CHATS:
            entry = {"messages": messages}
            try:
                text = fast.apply_chat_template(messages, chat_template=template, tokenize=False)
                out = fast.apply_chat_template(messages, chat_template=template, return_dict=True,
                                               return_assistant_tokens_mask=True)
                entry |= {"text": text, "ids": out["input_ids"], "mask": out["assistant_masks"]}
            except Exception as error:  # the template's own refusal
                entry["refused"] = str(error)
            case["chats"].append(entry)
        cases.append(case)
    (HERE / "chats.json").write_text(json.dumps(cases, indent=0) + "\n")
    results = []
    for template in EXPRESSIONS:
        entry = {"template": template}
        variables = dict(VARIABLES)
        messages = variables.pop("messages")
        try:
            entry["text"] = render_jinja_template([messages], chat_template=template, **variables)[0][0]
        except Exception as error:
            entry["refused"] = type(error).__name__
        results.append(entry)
    (HERE / "expressions.json").write_text(json.dumps({"variables": VARIABLES, "templates": results}, indent=1) + "\n")


main()
