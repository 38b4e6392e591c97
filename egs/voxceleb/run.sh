#!/usr/bin/env bash
# From audio to an EER: self-supervised speaker embeddings (SDPN) in Kaldi archives, PLDA and cosine scores.
#
#   bash run.sh                                              the demo corpus, made on the spot
#   bash run.sh --corpus audio-dir --audio-root DIR          DIR/train/<speaker>/*.wav, DIR/test/…, DIR/test/trials
#   bash run.sh --corpus kaldi-dir --train-dir DIR --test-dir DIR      Kaldi data directories
#   bash run.sh --corpus voxceleb --voxceleb1-root DIR --voxceleb2-root DIR [--musan-root DIR] [--rirs-root DIR]
#
# Every option below is --option-name. Stages that are complete are skipped; what was stopped is taken up again. Of a
# corpus, tables and trial lists are watched, not the audio: after changes to that remove <exp>/stamps/stage0.done.
# No stage sees a speaker label of the training set, unless --plda-labels corpus is given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=demo            # demo, audio-dir, kaldi-dir or voxceleb
stage=0                # first stage to run
stop_stage=7           # last stage to run
nj=$(nproc)            # parallel jobs
data=                  # where data go (default: data/<corpus>)
exp=                   # where the experiment goes (default: exp/<corpus>)
config=                # training configuration (default: conf/sdpn.yaml for voxceleb, else conf/sdpn_small.yaml)
config_set=            # overrides of it, such as "train.steps=20 train.batch_size=32"
seed=0
ngpu=                  # GPUs to train and extract on, of each node; 0: the CPU (default: one GPU where there is one)
num_nodes=1            # nodes to train on; then MASTER_ADDR, MASTER_PORT and NODE_RANK say which, as for torchrun
max_bad=5              # per cent of unusable audio, per set, above which stage 0 gives up
use_vad=false          # extract embeddings from speech frames alone
max_duration=60        # seconds; longer utterances are embedded in chunks
plda_labels=clusters   # classes for LDA and PLDA: clusters (k-means of the training embeddings) or corpus (its labels)
num_clusters=          # default: one for every 8 training utterances, at most 7500
lda_dim=               # default: 150, or what the embeddings and classes allow

audio_root=            # audio-dir
channel=0              # audio-dir: channel of recordings with several
train_dir=             # kaldi-dir
test_dir=              # kaldi-dir; holds trials
noise_dir=             # audio-dir, kaldi-dir: folder of noises, optional
rir_dir=               # audio-dir, kaldi-dir: folder of impulse responses, optional
voxceleb1_root=        # voxceleb
voxceleb2_root=
trials_dir=            # voxceleb: folder of the published trial lists (default: anywhere under --voxceleb1-root)
musan_root=            # optional
rirs_root=             # optional: RIRS_NOISES

. ./path.sh
. ./cmd.sh
. utils/parse_options.sh
. utils/stages.sh

refuse() { echo "$0: $1" >&2; exit 1; }

[ $# -eq 0 ] || refuse "'$1' is no option, and nothing else is expected (--help lists the options)"
for name in stage stop_stage nj seed num_nodes channel ngpu num_clusters lda_dim; do
  # Empty is the default of some.
  [[ ${!name} =~ ^[0-9]*$ && ( -n ${!name} || $name =~ ^(ngpu|num_clusters|lda_dim)$ ) ]] \
    || refuse "--${name//_/-} is '${!name}'; give a whole number"
done
[[ ${NODE_RANK:-0} =~ ^[0-9]+$ ]] || refuse "NODE_RANK is '$NODE_RANK'; it numbers the nodes from 0"
case $plda_labels in
  clusters | corpus) ;;
  *) refuse "--plda-labels is '$plda_labels'; choose clusters or corpus" ;;
esac

data=${data:-data/$corpus}
exp=${exp:-exp/$corpus}
# They become parts of tables and of commands in them.
for folder in "$data" "$exp"; do
  case $folder in
    *[[:space:]\'\"*?[]*) refuse "'$folder': --data and --exp cannot have white space, quotes or any of *?[ in them" ;;
  esac
done
stamps=$exp/stamps
if [ -z "$config" ]; then
  config=conf/sdpn_small.yaml
  if [ "$corpus" = voxceleb ]; then config=conf/sdpn.yaml; fi
fi
overrides=(--set "seed=$seed")
for setting in $config_set; do overrides+=(--set "$setting"); done
manifests=$data/manifests
backend=$exp/backend

# What stage 0 watches and runs; --nj, which changes nothing, stands first.
case $corpus in
  demo) sources=()
    prepare=(local/prepare_demo.sh --nj "$nj" --seed "$seed" "$data/audio" "$data") ;;
  audio-dir) sources=("$audio_root"/*/trials{,_*})
    prepare=(local/prepare_audio_dir.sh --nj "$nj" --max-bad "$max_bad" --channel "$channel" --noise-dir "$noise_dir" --rir-dir "$rir_dir"
      "$audio_root" "$data") ;;
  kaldi-dir) sources=("$train_dir"/{wav.scp,utt2spk,segments} "$test_dir"/{wav.scp,utt2spk,segments,trials,trials_*})
    prepare=(local/prepare_kaldi_dir.sh --nj "$nj" --max-bad "$max_bad" --noise-dir "$noise_dir" --rir-dir "$rir_dir" "$train_dir" "$test_dir" "$data") ;;
  voxceleb) sources=("${trials_dir:-$voxceleb1_root}"/{veri_test,veri_test2,voxceleb1_test_v2,list_test_*}.txt)
    prepare=(local/prepare_voxceleb.sh --nj "$nj" --max-bad "$max_bad" --trials-dir "$trials_dir" --musan-root "$musan_root" --rirs-root "$rirs_root"
      "$voxceleb1_root" "$voxceleb2_root" "$data") ;;
  *) refuse "--corpus is '$corpus'; choose demo, audio-dir, kaldi-dir or voxceleb" ;;
esac
tables=()
for path in ${sources[@]+"${sources[@]}"}; do [ ! -f "$path" ] || tables+=("$path"); done

# Training computes its features, extraction reads those of stage 1: told now, not after hours.
sdpn-k2 config --config "$config" "${overrides[@]}" --fbank-config conf/fbank.conf > /dev/null
mkdir -p "$data" "$exp"

if [ "$num_nodes" -gt 1 ] && [ "${NODE_RANK:-0}" -gt 0 ]; then
  echo "Node $NODE_RANK of $num_nodes: stage 3 alone; the others are for node 0"
  if [ "$stage" -lt 3 ]; then stage=3; fi
  if [ "$stop_stage" -gt 3 ]; then stop_stage=3; fi
fi

# GPUs to work on: what --ngpu says, else one where torch finds one.
count_gpus() {
  if [ -n "$ngpu" ]; then echo "$ngpu"; else python3 -c 'import torch; print(int(torch.cuda.is_available()))'; fi
}

# Trial lists in folder $1, by the names that sdpn_k2.kaldi.datadir.data_dir.trial_lists takes; without any, the missing one.
trial_lists() {
  local path found=false
  for path in "$1"/trials*; do
    if [[ ${path##*/} =~ ^trials(_[A-Za-z0-9_-]+)?$ && -f $path ]]; then
      echo "$path"
      found=true
    fi
  done
  $found || echo "$1/trials"
}

if begin_stage 0 "prepare the $corpus corpus" "$corpus ${prepare[0]} ${prepare[*]:3}" \
    reads ${tables[@]+"${tables[@]}"} \
    writes "$data/eval_sets" "$manifests/recordings_train.jsonl.gz" "$data/train/wav.scp"; then
  "${prepare[@]}"
  end_stage
fi

if [ ! -f "$data/eval_sets" ]; then
  echo "$0: stage $stage needs $data/eval_sets, which stage 0 makes: run with --stage 0" >&2
  exit 1
fi
eval_sets=$(cat "$data/eval_sets")
sets="train $eval_sets"

if begin_stage 1 "fbank and energy VAD" "" \
    reads $(printf "0:$data/%s/wav.scp " $sets) conf/fbank.conf conf/energy.conf conf/vad.conf \
    writes $(printf "$data/%s/feats.scp $data/%s/vad.scp " $(for x in $sets; do echo $x $x; done)) \
      $(printf "$manifests/cuts_%s.jsonl.gz " $sets); then
  for name in $sets; do
    dir=$data/$name
    steps/make_fbank.sh --nj "$nj" --cmd "$train_cmd" --fbank-config conf/fbank.conf --write-utt2num-frames true \
      "$dir" "$exp/make_fbank/$name" "$dir/fbank"
    # The VAD looks at log energy, which fbank does not hold.
    utils/copy_data_dir.sh "$dir" "$dir/energy"
    rm -f "$dir/energy/feats.scp"
    steps/make_mfcc.sh --nj "$nj" --cmd "$train_cmd" --mfcc-config conf/energy.conf \
      "$dir/energy" "$exp/make_energy/$name" "$dir/energy/data"
    sid/compute_vad_decision.sh --nj "$nj" --cmd "$train_cmd" --vad-config conf/vad.conf \
      "$dir/energy" "$exp/make_vad/$name" "$dir/vad"
    cp "$dir/energy/vad.scp" "$dir/vad.scp"
    utils/fix_data_dir.sh "$dir"
    sdpn-k2 cuts --config "$config" "${overrides[@]}" "$data" "$name"
  done
  end_stage
fi

if begin_stage 2 "select the cuts to train on" "${overrides[*]}" \
    reads "1:$manifests/cuts_train.jsonl.gz" "$config" \
    writes "$manifests/selected_cuts_train.jsonl.gz"; then
  sdpn-k2 select-cuts --config "$config" "${overrides[@]}" \
    "$manifests/cuts_train.jsonl.gz" "$manifests/selected_cuts_train.jsonl.gz"
  end_stage
fi

if begin_stage 3 "train SDPN" "${overrides[*]}" \
    reads "2:$manifests/selected_cuts_train.jsonl.gz" "$config" \
    writes "$exp/final.pt"; then
  launcher=(python3)
  device=cuda
  gpus=$(count_gpus)
  if [ "$gpus" -eq 0 ]; then device=cpu; fi
  if [ "$num_nodes" -gt 1 ]; then
    launcher=(torchrun --nproc-per-node $((gpus > 1 ? gpus : 1)) --nnodes "$num_nodes" --node-rank "${NODE_RANK:-0}"
      --master-addr "${MASTER_ADDR:?}" --master-port "${MASTER_PORT:-29500}")
  elif [ "$gpus" -gt 1 ]; then
    launcher=(torchrun --standalone --nproc-per-node "$gpus")
  fi
  run_until_saved "${launcher[@]}" -m sdpn_k2 train --device "$device" --config "$config" "${overrides[@]}" \
    "$manifests/selected_cuts_train.jsonl.gz" "$exp"
  end_stage
fi

if begin_stage 4 "extract embeddings" "$use_vad $max_duration" \
    reads "3:$exp/final.pt" $(printf "1:$data/%s/feats.scp " $sets) \
    writes $(printf "$exp/xvectors_%s/xvector.scp $exp/xvectors_%s/spk_xvector.scp " \
      $(for x in $sets; do echo $x $x; done)); then
  use_gpu=false
  extract_nj=$nj
  gpus=$(count_gpus)
  if [ "$gpus" -gt 0 ]; then use_gpu=true extract_nj=$gpus; fi
  for name in $sets; do
    sid/nnet3/xvector/extract_xvectors.sh --nj "$extract_nj" --cmd "$train_cmd" --use-gpu "$use_gpu" --use-vad "$use_vad" \
      --max-duration "$max_duration" "$exp" "$data/$name" "$exp/xvectors_$name"
  done
  end_stage
fi

# With too little to train them on there is no LDA and no PLDA, and the file no_plda says so.
backend_files() { if [ -f "$backend/no_plda" ]; then echo "$backend/no_plda"; else echo "$backend/transform.mat $backend/plda"; fi; }
class_labels=
if [ "$plda_labels" = corpus ]; then class_labels=0:$data/train/utt2spk; fi
if begin_stage 5 "back end: mean, LDA, PLDA" "$plda_labels $num_clusters $lda_dim $seed" \
    reads "4:$exp/xvectors_train/xvector.scp" $class_labels \
    writes "$backend/mean.vec" $(backend_files); then
  mkdir -p "$backend/log"
  rm -f "$backend"/{transform.mat,plda,plda_labels,no_plda}
  train_xvectors=scp:$exp/xvectors_train/xvector.scp
  $train_cmd "$backend/log/mean.log" \
    ivector-mean "$train_xvectors" "$backend/mean.vec"
  count=$(wc -l < "$exp/xvectors_train/xvector.scp")
  dim=$(copy-vector --binary=false "$backend/mean.vec" - 2> /dev/null | wc -w)
  dim=$((dim - 2))  # brackets
  if [ "$count" -lt "$dim" ]; then
    echo "$count training embeddings are too few for LDA and PLDA in their $dim dimensions: scores by cosine alone" |
      tee "$backend/no_plda" >&2
  else
    echo "$plda_labels" > "$backend/plda_labels"
    if [ "$plda_labels" = corpus ]; then
      cp "$data/train/utt2spk" "$backend/utt2spk"
    else
      sdpn-k2 plda-labels --seed "$seed" ${num_clusters:+--num-clusters "$num_clusters"} \
        "$train_xvectors" "$backend/utt2spk"
    fi
    utils/utt2spk_to_spk2utt.pl "$backend/utt2spk" > "$backend/spk2utt"
    if [ -z "$lda_dim" ]; then
      lda_dim=$(printf '%s\n' 150 $((dim - 1)) $(($(wc -l < "$backend/spk2utt") - 1)) | sort -n | head -n 1)
    fi
    $train_cmd "$backend/log/lda.log" \
      ivector-compute-lda --total-covariance-factor=0.0 --dim="$lda_dim" \
      "ark:ivector-subtract-global-mean $train_xvectors ark:- |" "ark:$backend/utt2spk" "$backend/transform.mat"
    $train_cmd "$backend/log/plda.log" \
      ivector-compute-plda "ark:$backend/spk2utt" \
      "ark:ivector-subtract-global-mean $train_xvectors ark:- | transform-vec $backend/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |" \
      "$backend/plda"
  fi
  end_stage
fi

if [ -z "$eval_sets" ]; then
  if [ "$stop_stage" -gt 5 ]; then echo "No evaluation set (none has trials), so nothing to score: stages 6 and 7 are left out"; fi
  exit 0
fi
methods="cosine cosine_mean"
if [ ! -f "$backend/no_plda" ]; then methods="$methods plda"; fi
lists=$(for name in $eval_sets; do trial_lists "$data/$name"; done)
score_files=$(for path in $lists; do
  for method in $methods; do echo "$exp/scores/$(basename "$(dirname "$path")")/${path##*/}.$method"; done
done)

if begin_stage 6 "score the trials" "$methods" \
    reads "5:$backend/mean.vec" $(printf "5:%s " $(backend_files)) $(printf "4:$exp/xvectors_%s/xvector.scp " $eval_sets) \
      $(printf "0:%s " $lists) \
    writes $score_files; then
  for name in $eval_sets; do
    scores=$exp/scores/$name
    xvectors=scp:$exp/xvectors_$name/xvector.scp
    unit="ark:ivector-normalize-length --scaleup=false $xvectors ark:- |"
    centred="ark:ivector-subtract-global-mean $backend/mean.vec $xvectors ark:- | ivector-normalize-length --scaleup=false ark:- ark:- |"
    projected="ark:ivector-subtract-global-mean $backend/mean.vec $xvectors ark:- | transform-vec $backend/transform.mat ark:- ark:- | ivector-normalize-length ark:- ark:- |"
    mkdir -p "$scores/log"
    for trials in $(trial_lists "$data/$name"); do
      list=$(basename "$trials")
      pairs="cut -d ' ' -f 1,2 '$trials' |"
      $train_cmd "$scores/log/$list.cosine.log" \
        ivector-compute-dot-products "$pairs" "$unit" "$unit" "$scores/$list.cosine"
      $train_cmd "$scores/log/$list.cosine_mean.log" \
        ivector-compute-dot-products "$pairs" "$centred" "$centred" "$scores/$list.cosine_mean"
      rm -f "$scores/$list.plda"
      if [ ! -f "$backend/no_plda" ]; then
        $train_cmd "$scores/log/$list.plda.log" \
          ivector-plda-scoring --normalize-length=true "ivector-copy-plda --smoothing=0.0 $backend/plda - |" \
          "$projected" "$projected" "$pairs" "$scores/$list.plda"
      fi
    done
  done
  end_stage
fi

if begin_stage 7 "results" "" \
    reads $(printf "6:%s " $score_files) $(printf "6:$exp/scores/%s " $eval_sets) $(printf "0:%s " $lists) \
    writes "$exp/RESULTS.md" "$exp/results.json" "$exp/report.html"; then
  # Kaldi's own figures, by its tools and rules; sdpn-k2 results adds intervals and the table.
  for name in $eval_sets; do
    for trials in $(trial_lists "$data/$name"); do
      list=$(basename "$trials")
      for scores in "$exp/scores/$name/$list".*; do
        log=$exp/scores/$name/log/$(basename "$scores").metrics.log
        if ! { eer=$(compute-eer <(local/prepare_for_eer.py "$trials" "$scores")) &&
            dcf=$(sid/compute_min_dcf.py --p-target 0.01 "$scores" "$trials"); } 2> "$log"; then
          cat "$log" >&2
          refuse "$scores cannot be measured with $trials"
        fi
        echo "$name $list ${scores##*.} EER $eer minDCF(0.01) $dcf"
      done
    done
  done > "$exp/scores/kaldi_metrics"
  sdpn-k2 results "$data" "$exp"
  sdpn-k2 report --data "$data" "$exp"
  end_stage
fi
