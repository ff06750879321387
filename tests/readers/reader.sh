#!/bin/sh
# reader.sh FILE COUNT: the coreutils read FILE, in turn; prints what was wrong.
path=$1 count=$2 bad=0 copy=$(mktemp)
good() {
    case $(wc -c <"$copy") in
        8) letter=a ;;
        100) letter=b ;;
        3000) letter=c ;;
        *) return 1 ;;
    esac
    [ -z "$(tr -d "$letter" <"$copy")" ]
}
i=0
while [ "$i" -lt "$count" ]; do
    case $((i % 4)) in
        0) cat "$path" >"$copy" ;;
        1) cp "$path" "$copy" ;;
        2) tail -c 3000 "$path" >"$copy" ;;
        3) head -c 5000 <"$path" >"$copy" ;;
    esac
    good || {
        bad=$((bad + 1))
        [ "$bad" -gt 1 ] || echo "$i: $(wc -c <"$copy")" >&2
    }
    i=$((i + 1))
done
rm -f "$copy"
echo "$count read, $bad wrong"
