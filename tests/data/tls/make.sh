#!/bin/sh
# Makes the certificates of the tests: two authorities, and of each a server's (localhost, 127.0.0.1) and a client's.
# They are valid for a century and protect nothing.
set -eu
cd "$(dirname "$0")"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500"
for authority in first second; do
  # shellcheck disable=SC2086
  openssl req -x509 $key -keyout "$authority-ca.key" -out "$authority-ca.pem" -subj "/CN=$authority authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
  for role in server client; do
    # shellcheck disable=SC2086
    openssl req -x509 $key -CA "$authority-ca.pem" -CAkey "$authority-ca.key" -keyout "$authority-$role.key" \
      -out "$authority-$role.pem" -subj "/CN=$authority $role" -addext "basicConstraints=CA:FALSE" \
      -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -addext "extendedKeyUsage=${role}Auth"
  done
  rm "$authority-ca.key"
done
openssl pkey -in first-server.key -aes256 -passout pass:secret -out first-server-encrypted.key
