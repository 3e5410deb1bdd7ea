# Sees to a browser and what drives it, on Debian; to be sourced.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v chromium > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null
}
command -v npm > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm > /dev/null
}
[ -d "$here/node_modules/playwright-core" ] || npm --prefix "$here" install --no-audit --no-fund --silent
