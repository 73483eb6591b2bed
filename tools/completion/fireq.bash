# Completion of `fireq` for bash; installed as share/bash-completion/completions/fireq.

_fireq_options() {
  local common="--help --threads --device --json"
  local sampling="--max-new-tokens --temperature --top-k --top-p --min-p --repetition-penalty --seed --stop"
  local bench="--synthetic --layers --shape --max-tokens --memory-gib --tensor-parallel --eager --batch-invariant --lm-head --products"
  case $1 in
    quantize) echo "--synthetic --layers --output --recipe --set --calib --calib-tokens --calib-context --held-out-tokens --seed --save-every --restart $common" ;;
    "eval perplexity") echo "--text --context --max-tokens --chunk --reference --reference-device --lm-head --tensor-parallel --products $common" ;;
    "eval tasks") echo "--data --tasks --limit --products $common" ;;
    "eval trace") echo "--synthetic --text --tokens --tolerance --products $common" ;;
    "bench prefill") echo "--repeats --baseline --compare $bench $common" ;;
    "bench decode") echo "--baseline --compare $bench $common" ;;
    "bench serve") echo "--requests --baseline --compare $bench $common" ;;
    "bench profile") echo "$bench $common" ;;
    "bench gemm" | "bench ffn" | "bench attention") echo "--help" ;;
    generate) echo "--prompt --prompt-ids --ignore-eos --tensor-parallel $sampling $common" ;;
    chat) echo "--system --tensor-parallel $sampling --help --threads --device" ;;
    inspect) echo "$common" ;;
    tokenize) echo "--file --add-special $common" ;;
    render) echo "--messages --no-generation-prompt $common" ;;
    eval | bench) echo "--help" ;;
    *) echo "--help --version" ;;
  esac
}

# The last name of a list a,b,c is the one to complete.
_fireq_list() {
  local prefix=
  [[ $2 == *,* ]] && prefix=${2%,*},
  mapfile -t COMPREPLY < <(compgen -P "$prefix" -W "$1" -- "${2##*,}")
}

_fireq() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
  local command=
  ((COMP_CWORD > 1)) && command=${COMP_WORDS[1]}
  [[ $command == eval || $command == bench ]] && ((COMP_CWORD > 2)) && command+=" ${COMP_WORDS[2]}"
  COMPREPLY=()

  case $previous in
    --recipe)
      mapfile -t COMPREPLY < <(compgen -W "default auto fireq fireq-absmax qoq rtn" -- "$current")
      mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -X '!*.json' -- "$current")
      return ;;
    --products) mapfile -t COMPREPLY < <(compgen -W "served table exact" -- "$current"); return ;;
    --lm-head) mapfile -t COMPREPLY < <(compgen -W "stored int4" -- "$current"); return ;;
    --device | --reference-device) mapfile -t COMPREPLY < <(compgen -W "auto cpu cuda" -- "$current"); return ;;
    --tasks)
      _fireq_list "piqa arc_easy arc_challenge boolq hellaswag winogrande lambada_openai" "$current"
      return ;;
    --output | -o | --data) mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;
    --calib | --text | --file | --messages)
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return ;;
    --synthetic)
      mapfile -t COMPREPLY < <(compgen -W "llama-3-8b llama-2-7b llama-2-13b llama-2-70b tiny" -- "$current")
      return ;;
    --reference) ;;
    --set | --*-tokens | --*-context | --context | --seed | --save-every | --limit | --threads | --prompt | \
      --prompt-ids | --system | --temperature | --top-k | --top-p | --min-p | --repetition-penalty | --stop | -n | \
      --layers | --shape | --memory-gib | --repeats | --requests | --baseline | --tolerance | --tokens | --chunk | --tensor-parallel)
      return ;;
  esac
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_fireq_options "$command")" -- "$current")
  elif [[ -z $command ]]; then
    mapfile -t COMPREPLY < <(compgen -W "quantize eval generate chat inspect tokenize render bench" -- "$current")
  elif [[ $command == eval ]]; then
    mapfile -t COMPREPLY < <(compgen -W "perplexity tasks trace" -- "$current")
  elif [[ $command == bench ]]; then
    mapfile -t COMPREPLY < <(compgen -W "prefill decode serve profile gemm ffn attention" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "smollm2-135m" -- "$current")
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -o filenames -F _fireq fireq
