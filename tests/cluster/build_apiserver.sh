#!/bin/sh
# Builds kube-apiserver from its Go module into the folder $1, once: the cluster tier's real API server.
# Staging modules are v0.0.0 in the module's own go.mod, so each is replaced by the release of the same minor.
set -eu
target=$1
minor=34.4
[ -x "$target/kube-apiserver" ] && exit 0
command -v go >/dev/null || { echo "go is not installed: the cluster tier needs it once" >&2; exit 3; }
mkdir -p "$target"
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > go.mod <<MOD
module cluster
go 1.24.0
require k8s.io/kubernetes v1.$minor
MOD
gomod=$(go mod download -json "k8s.io/kubernetes@v1.$minor" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
sed -n 's|^[[:space:]]*\(k8s.io/[a-z0-9-]*\) => \./staging/.*|\1|p' "$gomod" | while read -r module; do
    go mod edit -replace "$module=$module@v0.$minor"
done
cat > main.go <<GO
package cluster

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
GO
go mod tidy -e >/dev/null 2>&1 || true
set -- -X k8s.io/component-base/version.gitVersion=v1.$minor
set -- "$@" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34
nice -n 10 go build -mod=mod -trimpath -ldflags "-s -w $*" -o "$work/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
# the rename is last, so that a build cut short is never taken for a server
mv "$work/kube-apiserver" "$target/kube-apiserver"
