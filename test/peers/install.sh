#!/bin/sh
# Fetches the mail programs that the tests in this folder talk to, from Debian's packages, as root: Postfix, Exim,
# swaks, msmtp, esmtp, Dovecot's submission service, sendmail, OpenSMTPD and aiosmtpd.
#
# Nothing gets installed on the machine. The packages are downloaded and unpacked into a folder of their own, and the
# tests run the programs from there. So no packaged service can start, neither now nor at the next boot, the mail
# server that the machine may have stays as it is, and Postfix and Exim, which Debian does not let stand side by side,
# do. To be rid of it all, remove the folder.
#
# The folder is /var/cache/relayd-peers or what RELAYD_PEERS_DIR says. When it is complete, nothing is done or said.
set -eu

dir=${RELAYD_PEERS_DIR:-/var/cache/relayd-peers}

die() {
	echo "test/peers/install.sh: $*" >&2
	exit 1
}

# The groups are asked for one by one because Postfix and Exim exclude each other. What the tests run is fetched also
# where the machine has it; of all else, only what the machine lacks.
peers_1="postfix"
peers_2="exim4-daemon-light"
peers_3="swaks libnet-ssleay-perl msmtp esmtp sasl2-bin libsasl2-modules libsasl2-modules-db libnss-wrapper libio-socket-inet6-perl"
tools="perl iproute2 python3-minimal"

# These programs have their paths compiled in. Each gets a root of its own, which a test mounts over /usr in a mount
# namespace of its own (housed in house_test.go).
houses="dovecot sendmail opensmtpd aiosmtpd"
house_dovecot="dovecot-core dovecot-submissiond"
house_sendmail="sendmail-bin sendmail-cf m4 libsasl2-modules libsasl2-modules-db sasl2-bin"
house_opensmtpd="opensmtpd"
house_aiosmtpd="python3-aiosmtpd"

complete="root/usr/lib/postfix/sbin/master root/usr/sbin/sendmail root/usr/sbin/exim4 root/usr/bin/swaks
	root/usr/bin/msmtp root/usr/bin/esmtp root/usr/sbin/saslpasswd2 dovecot/usr/lib/dovecot/submission sendmail/usr/libexec/sendmail/sendmail
	sendmail/usr/bin/m4 opensmtpd/usr/sbin/smtpd"

for tool in apt-get dpkg flock; do
	command -v "$tool" >/dev/null 2>&1 || die "there is no $tool here; the packages come from Debian (12 or later)"
done
stamp="$(cksum <"$0") $(dpkg --print-architecture) $(cat /etc/debian_version 2>/dev/null || echo unknown)"
[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
[ "$(id -u)" = 0 ] || die "$dir is not complete; run this as root once"

mkdir -p "$dir"
chmod 755 "$dir"
exec 9>"$dir/lock"
flock -w 600 9 || die "another run of this script holds $dir/lock"
[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

work=$(mktemp -d "$dir/new.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
for name in root $houses; do
	mkdir -p "$work/archives/$name/partial" "$work/$name"
done
chmod -R 755 "$work"

# download ROOT PACKAGES OPTIONS: these packages and the dependencies that the machine lacks, as files for that root.
# apt unpacks nothing, so the lock of dpkg need not be held, and nothing that it would remove is removed.
download() {
	# shellcheck disable=SC2086 # both are lists of words
	DEBIAN_FRONTEND=noninteractive apt-get install --download-only --assume-yes --quiet --no-install-recommends \
		-o Debug::NoLocking=true -o APT::Sandbox::User=root -o Dir::Cache::archives="$work/archives/$1" \
		$3 $2 </dev/null >>"$work/log" 2>&1
}

download_all() {
	for packages in "$peers_1" "$peers_2" "$peers_3"; do
		download root "$packages" "--reinstall" || return 1
	done
	for house in $houses; do
		eval "packages=\$house_$house"
		download "$house" "$packages" "--reinstall" || return 1
	done
	download root "$tools" "--no-upgrade"
}

# Lists that are missing or too old show when a package is not found.
if ! download_all; then
	apt-get update --quiet -o DPkg::Lock::Timeout=120 </dev/null >>"$work/log" 2>&1 || true
	if ! download_all; then
		tail -n 15 "$work/log" >&2
		die "the packages could not be downloaded; is Debian's package mirror reachable?"
	fi
fi

for name in root $houses; do
	for package in "$work/archives/$name"/*.deb; do
		dpkg --extract "$package" "$work/$name" || die "$package cannot be unpacked"
	done
done
# Exim brings a sendmail too; the one meant here is Postfix's.
dpkg --extract "$work"/archives/root/postfix_*.deb "$work/root"
# The tests start everything as root; no program has to gain rights by itself.
for name in root $houses; do
	find "$work/$name" -type f -perm /6000 -exec chmod u-s,g-s {} +
done

for program in $complete; do
	[ -x "$work/$program" ] || die "Debian's packages no longer bring $program; the tests need it"
done
rm -f "$dir/stamp"
for name in root $houses; do
	rm -rf "${dir:?}/$name"
	mv "$work/$name" "$dir/$name"
done
(cd "$work/archives" && for name in postfix exim4-daemon-light swaks msmtp esmtp dovecot-submissiond sendmail-bin opensmtpd \
	python3-aiosmtpd; do
	dpkg-deb --show --showformat='${Package} ${Version}\n' */"$name"_*.deb
done) >"$dir/versions"
printf '%s\n' "$stamp" >"$dir/stamp"
echo "the mail programs for the tests are in $dir"
