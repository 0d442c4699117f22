# The deployment has a bucket for backups and releases: versioned, encrypted, private, reached by
# TLS only. What is not current any more expires.
{% set aws = salt['aws.settings']() %}
include:
  - aws.names

aws-bucket:
  s3_bucket.present:
    - name: {{ aws.bucket.name | json }}
    - noncurrent_days: {{ aws.bucket.noncurrent_days | json }}
    - upload_days: {{ aws.bucket.upload_days | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names
