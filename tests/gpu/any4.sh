#!/bin/sh
# Runs a model on the card and on the processor and compares.
#
#   any4.sh ANY4 MODEL_DIR
#
# Texts may part where two tokens are nearly equally likely: reported, no failure. The mean negative log-likelihood of a text
# must agree within 0.01 a token: activations are f16 on the card, and a mistake costs tenths. Exit: 0, 1 where something
# differs or fails, 77 where any4 has no card.
set -u
any4=$1 model=$2
status=0
export ANY4_QUANT_CACHE=off
text=$model/README.md
prompt="Once upon a time"

"$any4" version --json || exit 1

generate() { # DEVICE FLAG...
    device=$1
    shift
    "$any4" generate "$model" --device "$device" --prompt "$prompt" --max-tokens 64 --temperature 0 --log-level warning "$@"
}

nll() { # DEVICE QUANT
    "$any4" eval "$model" --device "$1" --quant "$2" --text "$text" --json --log-level warning |
        sed 's/.*"nll":\([-0-9.e+]*\).*/\1/'
}

on_card=$(generate cuda)
code=$?
if [ $code = 7 ]; then
    echo "any4 finds no card, or was built without CUDA"
    exit 77
fi
[ $code = 0 ] || exit 1
on_cpu=$(generate cpu) || exit 1
echo "card:      $on_card"
echo "processor: $on_cpu"
[ "$on_card" = "$on_cpu" ] && echo "the same text" || echo "other text"
again=$(generate cuda) || exit 1
if [ "$again" != "$on_card" ]; then
    echo "FAILED: another text in the second run on the card: $again"
    status=1
fi

for quant in any4 any4-paper none; do
    card=$(nll cuda $quant)
    cpu=$(nll cpu $quant)
    echo "$quant: mean NLL $card on the card, $cpu on the processor"
    awk -v a="$card" -v b="$cpu" 'BEGIN { d = a - b; exit !(a != "" && b != "" && d < 0.01 && d > -0.01) }' || {
        echo "FAILED: they differ"
        status=1
    }
done
"$any4" bench decode "$model" --device cuda --batch 1,8,64 --input-tokens 64 --output-tokens 64 || status=1
exit $status
