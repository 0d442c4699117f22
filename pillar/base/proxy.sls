# The way out of every machine but salt-1: the proxy there, for packages.
proxy:
  # Without it, each machine fetches packages by itself: where no salt-1 runs a
  # proxy, and the machines have a way out of their own.
  used: true
  # The only names that it leads to. It answers 403 for all others.
  hosts:
    # /etc/apt/mirrors/ of Debian's image for EC2 names the mirror at Amazon;
    # the other two are what Debian's own sources name.
    - cdn-aws.deb.debian.org
    - deb.debian.org
    - security.debian.org
    # Salt, by the lockfile. The index leads to the files.
    - pypi.org
    - files.pythonhosted.org
