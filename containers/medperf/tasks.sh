#!/bin/sh
# The tasks of MedPerf's data preparator by commands of sga-monai. Volumes are where container_config.yaml mounts them.
set -eu
volumes=${VOLUMES:-/mlcommons/volumes}
bundle=${BUNDLE:-/bundle}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# Exit code 2 is "finished, and some files have no label, or no score": they are counted in the report.
finish() {
    code=0
    "$@" || code=$?
    [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || exit "$code"
}

case "${1:-}" in
prepare)
    # The images as they are, and the manifest, which has pseudonyms, labels and half-years. The key is made and forgotten.
    mkdir -p "$volumes/data/images"
    cp -R "$volumes/raw_data/." "$volumes/data/images/"
    sga-monai manifest key "$work/site.key"
    finish sga-monai manifest from-dicom "$volumes/data/images" --labels "$volumes/raw_labels/labels.csv" --site "${SITE:-site}" \
        --site-key "$work/site.key" --out "$volumes/labels/site.csv"
    ;;
sanity_check)
    sga-monai manifest check "$volumes/labels/site.csv" --dataset-dir "$volumes/data/images"
    ;;
statistics)
    # MedPerf shows this file to its user, and sends it when the user agrees: aggregates, small groups hidden.
    finish sga-monai evaluate "$bundle" --manifest "$volumes/labels/site.csv" --dataset-dir "$volumes/data/images" --output-dir "$work/out"
    sga-monai report "$work/out"
    sga-monai release "$work/out" --out "$work/release.json" --site "${SITE:-site}"
    # JSON is YAML. The mounted file is written into; it cannot be replaced.
    cat "$work/release.json" >"$volumes/statistics/statistics.yaml"
    ;;
*)
    echo "give one of prepare, sanity_check, statistics" >&2
    exit 3
    ;;
esac
