# All subnets lead to S3 by an endpoint of the VPC, which lets pass what concerns the deployment's
# bucket, and nothing else. So a machine that somebody else commands can carry nothing to a bucket
# of theirs. Debian's mirrors and the package index are not on S3.
{% set aws = salt['aws.settings']() %}
{% set bucket = 'arn:aws:s3:::' ~ aws.bucket.name %}
include:
  - aws.network

aws-s3-endpoint:
  vpc_endpoint.gateway:
    - name: {{ aws.s3_endpoint | json }}
    - service: s3
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.network
    - policy:
        Version: '2012-10-17'
        Statement:
          - Sid: ListOwnBucket
            Effect: Allow
            Principal: '*'
            Action:
              - 's3:ListBucket'
              - 's3:ListBucketVersions'
            Resource: {{ bucket | json }}
          - Sid: UseOwnObjects
            Effect: Allow
            Principal: '*'
            Action:
              - 's3:AbortMultipartUpload'
              - 's3:DeleteObject'
              - 's3:GetObject'
              - 's3:GetObjectVersion'
              - 's3:PutObject'
            Resource: {{ (bucket ~ '/*') | json }}
