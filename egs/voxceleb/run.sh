#!/usr/bin/env bash
# From audio to an EER: self-supervised speaker embeddings (SDPN) in Kaldi archives, scored by cosine and PLDA.
#
#   bash run.sh                                              the demo corpus, which stage 0 synthesises
#   bash run.sh --corpus audio-dir --audio-root DIR          DIR/train/<speaker>/*.wav, DIR/test/…, DIR/test/trials
#   bash run.sh --corpus kaldi-dir --train-dir DIR --test-dir DIR      Kaldi data directories
#   bash run.sh --corpus voxceleb --voxceleb1-root DIR --voxceleb2-root DIR [--musan-root DIR] [--rirs-root DIR]
#   bash run.sh --sample-rate 8000 …                         telephone speech, with any of these
#
# Each option below is --option-name. Complete stages are skipped, and stopped ones resume. Stage 0 notices changes of a
# corpus in tables and trial lists, but not in the audio: after such a change, use --stage 0. No stage
# sees a speaker label of the training set, except with --plda-labels corpus. The results are at the end of this file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=demo            # demo, audio-dir, kaldi-dir or voxceleb
stage=                 # first stage to run, even if it is complete (default: 0, and complete stages are skipped)
stop_stage=7           # last stage to run
nj=auto                # parallel jobs; auto: one for each processor
sample_rate=           # Hz: 16000, or 8000 for telephone speech (default: features.sample_rate of the configuration)
data=                  # folder of the data (default: data/<corpus>, with _8k at 8000 Hz)
exp=                   # folder of the experiment (default: exp/<corpus>, with _8k at 8000 Hz)
config=                # training configuration (default: conf/sdpn.yaml or sdpn_8k.yaml for voxceleb, else sdpn_small.yaml)
config_set=            # overrides of the configuration, such as "train.steps=20 train.batch_size=32"
seed=0                 # random seed
ngpu=                  # GPUs per node for training and extraction; 0: CPU (default: one GPU if there is one)
num_nodes=1            # nodes for training; with several, set MASTER_ADDR, MASTER_PORT and NODE_RANK as for torchrun
dev_trials=            # EER curve and best.pt: a set, SET/LIST or data directory with trials, or none (default: dev, if any)
max_bad=5              # stage 0 gives up if more than this percentage of a set cannot be used
use_vad=false          # extract embeddings from speech frames only
max_duration=60        # seconds; longer utterances are embedded in chunks
plda_labels=clusters   # classes for LDA and PLDA: clusters (k-means of the training embeddings) or corpus (its labels)
num_clusters=          # default: one for every 8 training utterances, at most 7500
lda_dim=               # default: 150, or the most that the embeddings and classes allow

audio_root=            # audio-dir
channel=0              # audio-dir: channel to use in multi-channel files (0-based)
unlabelled=false       # audio-dir: DIR/train is any tree of files, without folders of speakers
train_dir=             # kaldi-dir
test_dir=              # kaldi-dir: a data directory with trials
noise_dir=             # audio-dir, kaldi-dir: folder of noises, optional
rir_dir=               # audio-dir, kaldi-dir: folder of impulse responses, optional
voxceleb1_root=        # voxceleb
voxceleb2_root=        # voxceleb
trials_dir=            # voxceleb: folder of the published trial lists (default: anywhere under --voxceleb1-root)
musan_root=            # voxceleb: MUSAN, optional
rirs_root=             # voxceleb: RIRS_NOISES, optional

printf -v _command 'bash run.sh%s' "$([ $# -eq 0 ] || printf ' %q' "$@")"  # the report shows it

# shellcheck source=egs/voxceleb/cmd.sh
. ./cmd.sh
# shellcheck source=utils/parse_options.sh
. utils/parse_options.sh

refuse() { echo "$0: $1" >&2; exit 1; }

[ $# -eq 0 ] || refuse "'$1' is not an option (--help lists the options)"
for name in stage stop_stage nj seed sample_rate num_nodes channel ngpu num_clusters lda_dim; do
  # Some are empty by default.
  [[ $name${!name} = njauto || ${!name} =~ ^[0-9]*$ && ( -n ${!name} || $name =~ ^(stage|sample_rate|ngpu|num_clusters|lda_dim)$ ) ]] \
    || refuse "--${name//_/-} must be a whole number, got '${!name}'"
done
[[ ${NODE_RANK:-0} =~ ^[0-9]+$ ]] || refuse "NODE_RANK must be the 0-based number of this node, got '$NODE_RANK'"
[[ $plda_labels =~ ^(clusters|corpus)$ ]] || refuse "--plda-labels must be clusters or corpus, got '$plda_labels'"
[[ $corpus =~ ^(demo|audio-dir|kaldi-dir|voxceleb)$ ]] \
  || refuse "--corpus must be demo, audio-dir, kaldi-dir or voxceleb, got '$corpus'"
repeat_stage=$stage  # an explicit --stage N runs stage N, whatever its stamp says
stage=${stage:-0}
# The options that a corpus needs, and all that it uses. Others would be ignored: refuse them.
case $corpus in
  demo) needed="" used="" ;;
  audio-dir) needed=audio_root used="audio_root channel noise_dir rir_dir" ;;
  kaldi-dir) needed="train_dir test_dir" used="train_dir test_dir noise_dir rir_dir" ;;
  voxceleb) needed="voxceleb1_root voxceleb2_root"
    used="voxceleb1_root voxceleb2_root trials_dir musan_root rirs_root" ;;
esac
if [ "$stage" -eq 0 ] && [ "${NODE_RANK:-0}" -eq 0 ]; then
  for name in $needed; do
    [ -n "${!name}" ] || refuse "--corpus $corpus needs --${name//_/-} DIR (--help lists the options)"
  done
fi
for name in audio_root train_dir test_dir noise_dir rir_dir voxceleb1_root voxceleb2_root trials_dir musan_root \
    rirs_root; do
  [[ -z ${!name} || " $used " == *" $name "* ]] || refuse "--${name//_/-} is not for --corpus $corpus (--help says which)"
done
for folder in "$data" "$exp"; do
  # Tables and commands contain these names.
  case $folder in
    -* | *[[:space:][:cntrl:]\'\"*?\&\;\|\<\>\(\)\[\]\{\}\$\`\\\!\#\~,]*)
      refuse "--data and --exp must not contain white space or any of '\"*?&;|<>()[]{}\$\`\\!#~ or a comma, got '$folder'" ;;
  esac
done

# shellcheck disable=SC2034  # path.sh reads it
if [ "$corpus" = demo ]; then sdpn_k2_extra=demo; fi
# shellcheck source=egs/voxceleb/path.sh
. ./path.sh
# shellcheck source=utils/stages.sh
. utils/stages.sh
if [ "$nj" = auto ]; then nj=$(utils/usable_processors.py); fi

default_config=conf/sdpn_small.yaml
if [ "$corpus" = voxceleb ]; then default_config=conf/sdpn.yaml; fi
if [ "$corpus $sample_rate" = "voxceleb 8000" ]; then default_config=conf/sdpn_8k.yaml; fi
config=${config:-$default_config}
overrides=(--set "seed=$seed")
for setting in $config_set; do overrides+=(--set "$setting"); done
if [ "$sample_rate" ]; then overrides+=(--set "features.sample_rate=$sample_rate"); fi

# The sample rate is a key of the configuration, which audio and stored features follow.
sample_rate=$(sdpn-k2 config --config "$config" "${overrides[@]}" --key features.sample_rate)
case $sample_rate in
  16000) suffix="" ;;
  8000) suffix=_8k ;;
  *) refuse "--sample-rate must be 16000 (conf/fbank.conf) or 8000 (conf/fbank_8k.conf), got '$sample_rate'" ;;
esac
fbank_config=conf/fbank$suffix.conf
data=${data:-data/$corpus$suffix}
exp=${exp:-exp/$corpus$suffix}

# Fail now, not hours later, if training would compute features that differ from those that stage 1 stores.
sdpn-k2 config --config "$config" "${overrides[@]}" --fbank-config "$fbank_config" > /dev/null

if [ "$num_nodes" -gt 1 ] && [ "${NODE_RANK:-0}" -gt 0 ]; then
  echo "Node $NODE_RANK of $num_nodes: running stage 3 only; node 0 runs the others"
  if [ "$stage" -lt 3 ]; then stage=3; fi
  if [ "$stop_stage" -gt 3 ]; then stop_stage=3; fi
fi

# Print the number of GPUs to use on this node: --ngpu, or by default one if torch finds one.
count_gpus() {
  if [ -n "$ngpu" ]; then echo "$ngpu"; else python3 -c 'import torch; print(int(torch.cuda.is_available()))'; fi
}

# Set launcher to the command that starts training on $1 GPUs per node.
choose_launcher() {
  launcher=(python3)
  if [ "$num_nodes" -gt 1 ]; then
    launcher=(torchrun --nproc-per-node $(($1 > 1 ? $1 : 1)) --nnodes "$num_nodes" --node-rank "${NODE_RANK:-0}"
      --master-addr "${MASTER_ADDR:?}" --master-port "${MASTER_PORT:-29500}")
  elif [ "$1" -gt 1 ]; then
    launcher=(torchrun --standalone --nproc-per-node "$1")
  fi
}

# List the files of LDA and PLDA. With fewer training embeddings than dimensions, a file no_plda replaces them.
list_plda_files() {
  plda_files=("$backend/transform.mat" "$backend/plda")
  if [ -f "$backend/no_plda" ]; then plda_files=("$backend/no_plda"); fi
}

# Folders and files. A number before a file is the stage that makes it.
manifests=$data/manifests
backend=$exp/backend
stamps=$exp/stamps
mkdir -p "$data" "$exp"
if [ "${NODE_RANK:-0}" -eq 0 ] && [ "$(tail -n 1 "$exp/commands" 2> /dev/null)" != "$_command" ]; then
  echo "$_command" >> "$exp/commands"
fi
# Containers may have no other temporary folder.
if [ ! -w "${TMPDIR:-/tmp}" ]; then TMPDIR=$(cd "$exp" && pwd); export TMPDIR; fi

unlabelled_option=()
if $unlabelled; then unlabelled_option=(--unlabelled true); fi

# The command of stage 0, and the tables that it reads. The number of jobs does not change the result.
case $corpus in
  demo)
    tables=()
    prepare=(local/prepare_demo.sh --nj "$nj" --sample-rate "$sample_rate" --seed "$seed" "$data/audio" "$data") ;;
  audio-dir)
    tables=("$audio_root"/*/trials{,_*})
    prepare=(local/prepare_audio_dir.sh --nj "$nj" --sample-rate "$sample_rate" --max-bad "$max_bad" --channel "$channel"
      --noise-dir "$noise_dir" --rir-dir "$rir_dir" ${unlabelled_option[@]+"${unlabelled_option[@]}"}
      "$audio_root" "$data") ;;
  kaldi-dir)
    tables=("$train_dir"/{wav.scp,utt2spk,segments} "$test_dir"/{wav.scp,utt2spk,segments,trials,trials_*})
    prepare=(local/prepare_kaldi_dir.sh --nj "$nj" --sample-rate "$sample_rate" --max-bad "$max_bad"
      --noise-dir "$noise_dir" --rir-dir "$rir_dir" "$train_dir" "$test_dir" "$data") ;;
  voxceleb)
    tables=("${trials_dir:-$voxceleb1_root}"/{veri_test,veri_test2,voxceleb1_test_v2,list_test_*}.txt)
    prepare=(local/prepare_voxceleb.sh --nj "$nj" --sample-rate "$sample_rate" --max-bad "$max_bad" --trials-dir "$trials_dir"
      --musan-root "$musan_root" --rirs-root "$rirs_root" "$voxceleb1_root" "$voxceleb2_root" "$data") ;;
esac
corpus_tables=()
for path in ${tables[@]+"${tables[@]}"}; do
  if [ -f "$path" ]; then corpus_tables+=("$path"); fi
done

if begin_stage 0 "prepare the $corpus corpus" "$corpus ${prepare[0]}$suffix ${prepare[*]:5}" \
    reads ${corpus_tables[@]+"${corpus_tables[@]}"} \
    writes "$data/eval_sets" "$manifests/recordings_train.jsonl.gz" "$data/train/wav.scp"; then
  "${prepare[@]}"
  end_stage
fi

# The files of each set.
[ -f "$data/eval_sets" ] || refuse "stage $stage needs $data/eval_sets, which stage 0 makes: run with --stage 0"
eval_sets=$(cat "$data/eval_sets")
for name in $eval_sets; do
  # The names that sdpn_k2.names.check_name accepts.
  [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] || refuse "$data/eval_sets: '$name' is not a valid name of a set"
done
sets="train $eval_sets"
wavs=() features=() cuts=() stored_features=() embeddings=() eval_embeddings=() trial_lists=()
for name in $sets; do
  wavs+=("0:$data/$name/wav.scp")
  features+=("$data/$name/feats.scp" "$data/$name/vad.scp")
  cuts+=("$manifests/cuts_$name.jsonl.gz")
  stored_features+=("1:$data/$name/feats.scp")
  embeddings+=("$exp/xvectors_$name/xvector.scp" "$exp/xvectors_$name/spk_xvector.scp")
done
for name in $eval_sets; do
  eval_embeddings+=("4:$exp/xvectors_$name/xvector.scp")
  found=false
  for path in "$data/$name"/trials*; do
    # The names that sdpn_k2.kaldi.datadir.data_dir.trial_lists accepts.
    if [[ ${path##*/} =~ ^trials(_[A-Za-z0-9_-]+)?$ && -f $path ]]; then trial_lists+=("$path") found=true; fi
  done
  $found || trial_lists+=("$data/$name/trials")
done

if begin_stage 1 "fbank and energy VAD" "" \
    reads "${wavs[@]}" "$fbank_config" conf/vad.conf \
    writes "${features[@]}" "${cuts[@]}"; then
  for name in $eval_sets train; do  # the small ones first: errors show early
    steps/make_fbank.sh --nj "$nj" --cmd "$train_cmd" --fbank-config "$fbank_config" --vad-config conf/vad.conf \
      "$data/$name" "$exp/make_fbank/$name" "$data/$name/fbank"
    utils/fix_data_dir.sh "$data/$name"
    sdpn-k2 cuts --config "$config" "${overrides[@]}" "$data" "$name"
  done
  end_stage
fi

if begin_stage 2 "select the cuts for training" "${overrides[*]}" \
    reads "1:$manifests/cuts_train.jsonl.gz" "$config" \
    writes "$manifests/selected_cuts_train.jsonl.gz"; then
  sdpn-k2 select-cuts --config "$config" "${overrides[@]}" \
    "$manifests/cuts_train.jsonl.gz" "$manifests/selected_cuts_train.jsonl.gz"
  end_stage
fi

# The trials on which training evaluates itself. They do not change the model, so the stage's settings lack them.
dev=()
case $dev_trials in
  none) ;;
  "") if [[ " ${eval_sets//$'\n'/ } " == *" dev "* ]]; then dev=(--dev "$data/dev"); fi ;;
  *)
    for path in "$data/$dev_trials" "$dev_trials"; do
      if [ -e "$path" ]; then dev=(--dev "$path"); break; fi
    done
    [ ${#dev[@]} -gt 0 ] || refuse "--dev-trials $dev_trials: not one of the sets (${eval_sets//$'\n'/ }), and no such folder" ;;
esac

if begin_stage 3 "train SDPN" "${overrides[*]}" \
    reads "2:$manifests/selected_cuts_train.jsonl.gz" "$config" \
    writes "$exp/final.pt"; then
  gpus=$(count_gpus)
  choose_launcher "$gpus"
  run_until_saved "${launcher[@]}" -m sdpn_k2 train --device "$([ "$gpus" -eq 0 ] && echo cpu || echo cuda)" \
    --config "$config" "${overrides[@]}" ${dev[@]+"${dev[@]}"} "$manifests/selected_cuts_train.jsonl.gz" "$exp"
  end_stage
fi

if begin_stage 4 "extract embeddings" "$use_vad $max_duration" \
    reads "3:$exp/final.pt" "${stored_features[@]}" \
    writes "${embeddings[@]}"; then
  gpus=$(count_gpus)
  extract_options=(--nj "$nj" --use-gpu false)
  if [ "$gpus" -gt 0 ]; then extract_options=(--nj "$gpus" --use-gpu true); fi
  for name in $sets; do
    # A repetition must not take up the jobs of the run that it repeats.
    if $repeats; then rm -f "$exp/xvectors_$name"/xvector.*.scp; fi
    sid/nnet3/xvector/extract_xvectors.sh "${extract_options[@]}" --cmd "$train_cmd" --use-vad "$use_vad" \
      --max-duration "$max_duration" "$exp" "$data/$name" "$exp/xvectors_$name"
  done
  end_stage
fi

# The command that labels training utterances for LDA and PLDA, and its input.
train_xvectors=scp:$exp/xvectors_train/xvector.scp
label_utterances=(sdpn-k2 plda-labels --seed "$seed" ${num_clusters:+--num-clusters "$num_clusters"} "$train_xvectors")
corpus_labels=()
if [ "$plda_labels" = corpus ]; then
  label_utterances=(cp "$data/train/utt2spk")
  corpus_labels=("0:$data/train/utt2spk")
fi
list_plda_files

if begin_stage 5 "back end: mean, LDA, PLDA" "$plda_labels $num_clusters $lda_dim $seed" \
    reads "4:$exp/xvectors_train/xvector.scp" ${corpus_labels[@]+"${corpus_labels[@]}"} \
    writes "$backend/mean.vec" "${plda_files[@]}"; then
  rm -f "$backend"/{transform.mat,plda,plda_labels,no_plda}
  $train_cmd "$backend/log/mean.log" \
    ivector-mean "$train_xvectors" "$backend/mean.vec"
  count=$(wc -l < "$exp/xvectors_train/xvector.scp")
  dim=$(copy-vector --binary=false "$backend/mean.vec" - 2> /dev/null | awk '{ print NF - 2 }')  # without brackets
  if [ "$count" -lt "$dim" ]; then
    echo "$count training embeddings are too few for LDA and PLDA in $dim dimensions; scoring by cosine only" |
      tee "$backend/no_plda" >&2
  else
    echo "$plda_labels" > "$backend/plda_labels"
    "${label_utterances[@]}" "$backend/utt2spk"
    utils/utt2spk_to_spk2utt.pl "$backend/utt2spk" > "$backend/spk2utt"
    most=$(printf '%s\n' 150 $((dim - 1)) $(($(wc -l < "$backend/spk2utt") - 1)) | sort -n | head -n 1)
    $train_cmd "$backend/log/lda.log" \
      ivector-compute-lda --total-covariance-factor=0.0 --dim="${lda_dim:-$most}" \
      "ark:ivector-subtract-global-mean $train_xvectors ark:- |" "ark:$backend/utt2spk" "$backend/transform.mat"
    $train_cmd "$backend/log/plda.log" \
      ivector-compute-plda "ark:$backend/spk2utt" \
      "ark:ivector-subtract-global-mean $train_xvectors ark:- | transform-vec $backend/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
      "$backend/plda"
  fi
  end_stage
fi

if [ -z "$eval_sets" ]; then
  if [ "$stop_stage" -gt 5 ]; then echo "No evaluation set has trials: skipping stages 6 and 7"; fi
  exit 0
fi

# The files of each list of trials: exp/scores/<set>/<list>.<method>
list_plda_files
methods="cosine cosine_mean plda"
if [ -f "$backend/no_plda" ]; then methods="cosine cosine_mean"; fi
score_files=() score_folders=()
for trials in "${trial_lists[@]}"; do
  name=$(basename "$(dirname "$trials")")
  for method in $methods; do score_files+=("$exp/scores/$name/${trials##*/}.$method"); done
done
for name in $eval_sets; do score_folders+=("6:$exp/scores/$name"); done

if begin_stage 6 "score the trials" "$methods" \
    reads "5:$backend/mean.vec" "${plda_files[@]/#/5:}" "${eval_embeddings[@]}" "${trial_lists[@]/#/0:}" \
    writes "${score_files[@]}"; then
  for trials in "${trial_lists[@]}"; do
    name=$(basename "$(dirname "$trials")")
    list=${trials##*/}
    scores=$exp/scores/$name
    pairs="cut -d ' ' -f 1,2 '$trials' |"
    xvectors=scp:$exp/xvectors_$name/xvector.scp
    unit="ark:ivector-normalize-length --scaleup=false $xvectors ark:- |"
    centred="ark:ivector-subtract-global-mean $backend/mean.vec $xvectors ark:- | ivector-normalize-length --scaleup=false ark:- ark:- |"
    projected="ark:ivector-subtract-global-mean $backend/mean.vec $xvectors ark:- | transform-vec $backend/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |"
    rm -f "$scores/$list.plda"
    $train_cmd "$scores/log/$list.cosine.log" \
      ivector-compute-dot-products "$pairs" "$unit" "$unit" "$scores/$list.cosine"
    $train_cmd "$scores/log/$list.cosine_mean.log" \
      ivector-compute-dot-products "$pairs" "$centred" "$centred" "$scores/$list.cosine_mean"
    [ -f "$backend/no_plda" ] || $train_cmd "$scores/log/$list.plda.log" \
      ivector-plda-scoring --normalize-length=true "ivector-copy-plda --smoothing=0.0 $backend/plda - |" \
      "$projected" "$projected" "$pairs" "$scores/$list.plda"
  done
  end_stage
fi

if begin_stage 7 "results" "" \
    reads "${score_files[@]/#/6:}" "${score_folders[@]}" "${trial_lists[@]/#/0:}" \
    writes "$exp/RESULTS.md" "$exp/results.json" "$exp/report.html"; then
  for trials in "${trial_lists[@]}"; do
    for scores in "$exp/scores/$(basename "$(dirname "$trials")")/${trials##*/}".*; do
      local/kaldi_metrics.sh "$trials" "$scores"
    done
  done
  sdpn-k2 results "$data" "$exp"
  sdpn-k2 report --data "$data" "$exp"
  end_stage
fi

# Results on two CPU cores: C = 128, batch 64, 200 steps, seed 0, no speaker labels anywhere. EER in per cent with 95 %
# intervals over speakers. RESULTS.md and report.html in the experiment folder hold the rest. The published recipe
# (conf/sdpn.yaml on VoxCeleb) has not been run yet.
#
#                                                untrained, cosine   cosine              PLDA on clusters
# demo: 20 synthetic speakers, 28,680 trials     16.0                 8.6 (5.8..11.8)     3.9 (2.2..6.0)
# real dev list: 30 speakers, 28,680 trials      24.6                11.8 (10.0..13.7)   12.8 (10.5..15.1)
# real test list: 10 speakers, 4,950 trials      15.8                 9.6 (4.3..13.8)     8.2 (4.0..11.6)
