"""The salt-cloud driver for Amazon EC2 that Salt 3008 no longer ships, on boto3: `driver: ec2`."""
