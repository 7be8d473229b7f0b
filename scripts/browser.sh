#!/bin/sh
# Makes sure that there is a Chromium: reports and the viewer are tested in it. Users need only some browser.
set -eu
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        echo "browser: $(command -v "$name")"
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "browser: installing chromium"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium
    exit 0
fi
echo "browser: no Chromium found. On Debian: sudo apt install chromium" >&2
exit 1
